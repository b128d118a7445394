//! Who a caller is, and what users and roles every cluster begins with.

pub mod password;
pub mod policy;
pub mod token;
pub(crate) mod totp;
