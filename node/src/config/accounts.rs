//! `[accounts]` and `[mail]`: how users register, and where their mails go.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::validate::Rule;
use super::{Config, Secret};

/// `[accounts]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Accounts {
    /// User names are mail addresses, and new users confirm theirs before they may log in.
    pub verify_mail: bool,
    /// The URL of a database as browsers reach it, such as `https://api.example.com/v1`: links in mails begin with it.
    pub public_url: String,
    /// The page of the front end on which a new password is entered; it gets the token as parameter `bq-token`. Empty: passwords are not
    /// reset by mail.
    pub reset_link: String,
    /// Where browsers go on after an address was confirmed. Empty: they see an empty page.
    pub verified_redirect: String,
}

/// `[mail]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mail {
    /// The directory that mails are left in, a file for each. Empty: `mail` in the data directory.
    pub spool_dir: PathBuf,
    /// `[mail.smtp]`: the mail server that takes them from there.
    pub smtp: Smtp,
}

/// `[mail.smtp]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Smtp {
    /// The mail server. Empty: mails stay in the spool.
    pub host: String,
    /// Its port; 0: the usual one for the encryption (587, 465, 25).
    pub port: u16,
    /// How the connection is made secret.
    pub encryption: MailEncryption,
    /// Certificates in PEM form: who vouches for the server, and nobody else then. Empty: whom the system trusts.
    pub ca: PathBuf,
    /// Who logs in there. Empty: nobody does.
    pub user: String,
    /// With which password.
    pub password: Secret,
    /// The sender: an address, or `Name <address>`.
    pub from: String,
}

/// How a connection to a mail server is made secret.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MailEncryption {
    /// TLS after a plain greeting; a server that offers none is refused.
    #[default]
    Starttls,
    /// TLS from the first byte.
    Tls,
    /// None; only with `security.insecure`.
    None,
}

impl Smtp {
    pub(super) fn validate(&self, insecure: bool) -> Result<(), Rule> {
        if self.host.is_empty() {
            return Ok(());
        }
        if self.from.is_empty() {
            return Err(Rule::Empty {
                key: "mail.smtp.from",
            });
        }
        if self.user.is_empty() == self.password.is_set() {
            return Err(Rule::Pair {
                first: "mail.smtp.user",
                second: "mail.smtp.password",
            });
        }
        match self.encryption == MailEncryption::None && !insecure {
            true => Err(Rule::NotSecure {
                key: "mail.smtp.encryption",
                value: "none".to_owned(),
            }),
            false => Ok(()),
        }
    }
}

impl Accounts {
    /// Checks what types cannot say.
    ///
    /// # Errors
    /// A link that is no web address, or one that is missing.
    pub(super) fn validate(&self) -> Result<(), Rule> {
        for (key, link) in [
            ("accounts.public_url", &self.public_url),
            ("accounts.reset_link", &self.reset_link),
            ("accounts.verified_redirect", &self.verified_redirect),
        ] {
            let is_link = ["https://", "http://"].iter().any(|scheme| {
                link.strip_prefix(scheme)
                    .is_some_and(|rest| !rest.is_empty())
            });
            let is_plain = link.bytes().all(|byte| byte.is_ascii_graphic());
            let is_fit = link.is_empty() || (is_link && is_plain);
            if !is_fit {
                return Err(Rule::NotALink {
                    key,
                    value: link.clone(),
                });
            }
        }
        if self.verify_mail && self.public_url.is_empty() {
            return Err(Rule::Empty {
                key: "accounts.public_url (needed by accounts.verify_mail)",
            });
        }
        Ok(())
    }

    /// What the service is told.
    pub(crate) fn for_service(&self) -> service::Accounts {
        let base = self.public_url.trim_end_matches('/');
        service::Accounts {
            verify_mail: self.verify_mail,
            verify_link: format!("{base}/db/User/verify"),
            rename_link: format!("{base}/db/User/verifyUsername"),
            reset_link: self.reset_link.clone(),
            verified_redirect: self.verified_redirect.clone(),
        }
    }
}

impl Config {
    /// The directory that mails are left in.
    pub(crate) fn spool_dir(&self) -> PathBuf {
        if self.mail.spool_dir.as_os_str().is_empty() {
            self.node.data_dir.join("mail")
        } else {
            self.mail.spool_dir.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_web_addresses_and_there_when_they_are_needed() {
        let good = Accounts {
            verify_mail: true,
            public_url: "https://api.example.com/v1/".to_owned(),
            ..Accounts::default()
        };
        assert_eq!(good.validate(), Ok(()));
        let told = good.for_service();
        assert_eq!(
            told.verify_link,
            "https://api.example.com/v1/db/User/verify"
        );
        let missing = Accounts {
            public_url: String::new(),
            ..good.clone()
        };
        assert!(matches!(missing.validate(), Err(Rule::Empty { .. })));
        for bad in [
            "api.example.com",
            "javascript:alert(1)",
            "https://",
            "https://a b",
        ] {
            let link = Accounts {
                verified_redirect: bad.to_owned(),
                ..good.clone()
            };
            assert!(
                matches!(link.validate(), Err(Rule::NotALink { .. })),
                "{bad}"
            );
        }
    }
}
