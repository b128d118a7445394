//! What an operator decides about accounts.

/// How accounts are made and confirmed. Links are addresses that get the token of a mail as one more parameter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accounts {
    /// New users confirm their mail address, which is their name, before they may log in.
    pub verify_mail: bool,
    /// Our own `…/db/User/verify` as the outside sees it; needed by `verify_mail`.
    pub verify_link: String,
    /// Our own `…/db/User/verifyUsername` likewise.
    pub rename_link: String,
    /// The page of the front end where a new password is entered; without it passwords cannot be reset by mail.
    pub reset_link: String,
    /// Where browsers go on after they confirmed an address; empty: nowhere.
    pub verified_redirect: String,
}
