//! Sending the mails of the service.
//!
//! Lacks: senders that speak to a mail server. Whoever runs one takes the files of the spool.

mod spool;

pub(crate) use self::spool::Spool;
