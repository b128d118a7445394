//! What a certificate says: whose it is, for which names, for how long.

use std::net::IpAddr;
use std::path::Path;

use jiff::Timestamp;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, UnixTime};
use sha2::{Digest as _, Sha256};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::nodes::NODE_NAME;

/// A certificate in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Whose it is.
    pub(crate) subject: String,
    /// Who vouches for it.
    pub(crate) issuer: String,
    /// Names and addresses that it is valid for.
    pub(crate) names: Vec<String>,
    /// What it may be used for: `ca`, `node`, `server`, `client`.
    pub(crate) roles: Vec<&'static str>,
    /// Valid from this second on, since 1970.
    pub(crate) not_before: i64,
    /// Valid up to this second, included.
    pub(crate) not_after: i64,
    /// The key that it is for, as its bits lie in it.
    pub(crate) public_key: Vec<u8>,
    /// SHA-256 of its DER form, in hexadecimal digits.
    pub(crate) fingerprint: String,
}

impl Facts {
    /// # Errors
    /// It is no X.509 certificate; the text says where it breaks off.
    pub(crate) fn of(certificate: &CertificateDer<'_>) -> Result<Self, String> {
        let (_, parsed) =
            X509Certificate::from_der(certificate).map_err(|error| error.to_string())?;
        let names = match parsed.subject_alternative_name() {
            Ok(Some(extension)) => extension.value.general_names.iter().map(name).collect(),
            Ok(None) | Err(_) => Vec::new(),
        };
        let mut roles = Vec::new();
        if parsed.is_ca() {
            roles.push("ca");
        }
        if names.iter().any(|name| name == NODE_NAME) {
            roles.push("node");
        }
        if let Ok(Some(usage)) = parsed.extended_key_usage() {
            roles.extend(usage.value.server_auth.then_some("server"));
            roles.extend(usage.value.client_auth.then_some("client"));
        }
        Ok(Self {
            subject: parsed.subject().to_string(),
            issuer: parsed.issuer().to_string(),
            names,
            roles,
            not_before: parsed.validity().not_before.timestamp(),
            not_after: parsed.validity().not_after.timestamp(),
            public_key: parsed.public_key().subject_public_key.data.to_vec(),
            fingerprint: hex::encode(Sha256::digest(certificate)),
        })
    }

    /// Why it is not valid at `now`, in seconds since 1970.
    ///
    /// # Errors
    /// Too early or too late; the text names both times.
    pub(crate) fn check_time(&self, now: i64) -> Result<(), String> {
        if now > self.not_after {
            Err(format!(
                "it expired at {}, and now it is {}",
                date(self.not_after),
                date(now)
            ))
        } else if now < self.not_before {
            Err(format!(
                "it is valid from {} on, and now it is {}",
                date(self.not_before),
                date(now)
            ))
        } else {
            Ok(())
        }
    }
}

fn name(name: &GeneralName<'_>) -> String {
    match name {
        GeneralName::DNSName(name) => (*name).to_owned(),
        GeneralName::IPAddress(bytes) => match *bytes {
            [a, b, c, d] => IpAddr::from([*a, *b, *c, *d]).to_string(),
            bytes => match <[u8; 16]>::try_from(bytes) {
                Ok(bytes) => IpAddr::from(bytes).to_string(),
                Err(_) => hex::encode(bytes),
            },
        },
        other => other.to_string(),
    }
}

/// A time in seconds since 1970, for people.
pub(crate) fn date(seconds: i64) -> String {
    Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |time| time.to_string())
}

/// Seconds since 1970 on this machine's clock: certificates know no other, and nothing but them is judged by it.
pub(crate) fn now() -> i64 {
    i64::try_from(UnixTime::now().as_secs()).unwrap_or(i64::MAX)
}

/// The certificates in PEM text; `path` is where it came from.
///
/// # Errors
/// There is none, or one is damaged.
pub(crate) fn certificates(
    path: &Path,
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, String> {
    let found = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| format!("{}: {error}", path.display()))?;
    if found.is_empty() {
        return Err(format!(
            "{} holds no certificate in PEM form",
            path.display()
        ));
    }
    Ok(found)
}
