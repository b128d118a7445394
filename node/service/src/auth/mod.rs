//! Who a caller is, and what users and roles every cluster begins with.

pub mod password;
pub mod policy;
mod rotation;
pub mod token;
pub(crate) mod totp;
