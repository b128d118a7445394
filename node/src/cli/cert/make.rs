//! Certificates and keys: ECDSA P-256, which every TLS library of the last ten years reads.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use rand::Rng as _;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

use crate::tls::facts::{self, Facts, date};
use crate::tls::nodes::NODE_NAME;

/// Clocks of other machines may be behind by this much.
const BACKDATED_SECONDS: i64 = 3600;
const DAY_SECONDS: i64 = 24 * 3600;

/// Where operators speak to a node's admin port.
const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// A certificate and its private key, in PEM form.
pub(super) struct Made {
    pub(super) certificate: String,
    pub(super) key: String,
}

/// What a certificate is for.
pub(super) enum Role<'a> {
    /// A node that is reached by these names and addresses.
    Node(&'a [String]),
    /// Somebody who is none.
    Client,
}

/// A CA with a name of its own, so that two CAs are never taken for one.
pub(super) fn authority(days: u32) -> anyhow::Result<Made> {
    let name = format!("Larder CA {:016x}", rand::rng().random::<u64>());
    let mut params = params(&name, days)?;
    // It vouches for nodes and clients, and for no further CA.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate()?;
    Ok(Made {
        certificate: params.self_signed(&key)?.pem(),
        key: key.serialize_pem(),
    })
}

/// A CA as it lies in a folder.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    not_after: i64,
}

impl Authority {
    /// Reads `ca.crt` and `ca.key`.
    pub(super) fn read(dir: &Path) -> anyhow::Result<Self> {
        let (certificate, key) = (dir.join("ca.crt"), dir.join("ca.key"));
        let text = |path: &Path| {
            std::fs::read_to_string(path).with_context(|| {
                format!(
                    "cannot read {}: `larder cert create-ca` makes it",
                    path.display()
                )
            })
        };
        let pem = text(&certificate)?;
        let found =
            facts::certificates(&certificate, pem.as_bytes()).map_err(anyhow::Error::msg)?;
        let facts = Facts::of(&found[0]).map_err(anyhow::Error::msg)?;
        facts
            .check_time(facts::now())
            .map_err(|reason| anyhow::anyhow!("{}: {reason}", certificate.display()))?;
        let key_pair = KeyPair::from_pem(&text(&key)?)
            .with_context(|| format!("{} is no private key", key.display()))?;
        anyhow::ensure!(
            facts.public_key == key_pair.public_key_raw(),
            "{} is not the key of {}",
            key.display(),
            certificate.display()
        );
        let issuer = Issuer::from_ca_cert_pem(&pem, key_pair)
            .with_context(|| format!("{} is no CA", certificate.display()))?;
        Ok(Self {
            issuer,
            not_after: facts.not_after,
        })
    }

    /// A certificate that ends with the CA at the latest.
    pub(super) fn sign(&self, name: &str, role: Role<'_>, days: u32) -> anyhow::Result<Made> {
        let mut params = params(name, days)?;
        let now = facts::now();
        if now + i64::from(days) * DAY_SECONDS > self.not_after {
            set_times(&mut params, now - BACKDATED_SECONDS, self.not_after);
            eprintln!("larder: it ends with its CA, at {}", date(self.not_after));
        }
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if let Role::Node(hosts) = role {
            params
                .extended_key_usages
                .push(ExtendedKeyUsagePurpose::ServerAuth);
            let mut names = vec![NODE_NAME.to_owned()];
            for host in hosts.iter().map(String::as_str).chain(LOOPBACK) {
                if !names.iter().any(|known| known == host) {
                    names.push(host.to_owned());
                }
            }
            params.subject_alt_names = CertificateParams::new(names)?.subject_alt_names;
        }
        let key = KeyPair::generate()?;
        Ok(Made {
            certificate: params.signed_by(&key, &self.issuer)?.pem(),
            key: key.serialize_pem(),
        })
    }
}

fn params(name: &str, days: u32) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let now = facts::now();
    set_times(
        &mut params,
        now - BACKDATED_SECONDS,
        now + i64::from(days) * DAY_SECONDS,
    );
    Ok(params)
}

/// First and last second, since 1970.
fn set_times(params: &mut CertificateParams, first: i64, last: i64) {
    let since = |seconds: i64| Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    params.not_before = date_time_ymd(1970, 1, 1) + since(first);
    params.not_after = date_time_ymd(1970, 1, 1) + since(last);
}
