//! Who a caller is, what it may do, and what users and roles every cluster begins with.

pub(crate) mod grant;
pub mod password;
pub mod policy;
mod rotation;
pub mod token;
pub(crate) mod totp;
