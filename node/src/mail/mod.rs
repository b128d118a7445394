//! Sending the mails of the service.
//!
//! Every mail goes to the spool first. Where a mail server is configured, it is delivered from there; else whoever runs one takes the
//! files.

mod server;
mod smtp;
mod spool;

pub(crate) use self::smtp::Delivery;
pub(crate) use self::spool::Spool;
