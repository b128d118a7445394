//! The certificates of this node as they are now, checked before they count, and read again while it runs.
//!
//! Each accepted or dialled connection takes the configuration in force at that moment and keeps it; changing it touches
//! no open connection. The files are compared by content, every few seconds and at SIGHUP: times of files say nothing
//! where they are links that are swapped.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use metrics::{Unit, describe_gauge, gauge};
use parking_lot::{Mutex, RwLock};
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoClientAuth, NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use sha2::{Digest as _, Sha256};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::facts::{self, Facts};
use super::nodes::{self, NodesOnly};
use super::{Port, provider};
use crate::config::{self, Secret, SecretError};

/// Between two looks at the files.
const LOOK_EVERY: Duration = Duration::from_secs(3);

/// Seconds until a certificate expires, by `certificate`: `ca`, `node`, `client`; negative afterwards.
pub const CERTIFICATE_EXPIRY: &str = "larder_tls_certificate_expiry_seconds";
/// 1 while the files hold something that cannot be used and an older state is in force.
pub const RELOAD_FAILED: &str = "larder_tls_reload_failed";

/// Bits of a file's mode.
const READABLE_BY_OTHERS: u32 = 0o044;

const CLIENT_VERSIONS: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];
/// Both sides are ours.
const PEER_VERSIONS: &[&SupportedProtocolVersion] = &[&TLS13];

/// Why certificates cannot be used. Those in force stay so.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A key cannot be read.
    #[error("tls.{key}: {source}")]
    Secret {
        /// The configuration key.
        key: &'static str,
        /// Why.
        source: SecretError,
    },
    /// A file holds something else than certificates.
    #[error("{0}")]
    Certificates(String),
    /// What should be a private key is none.
    #[error("tls.{key} = {secret} holds no private key in PEM form")]
    NoKey {
        /// The configuration key.
        key: &'static str,
        /// Where it is.
        secret: Secret,
    },
    /// A certificate is out of date.
    #[error("{} cannot be used: {reason}", path.display())]
    Time {
        /// The file.
        path: PathBuf,
        /// Both times.
        reason: String,
    },
    /// Certificate and key do not belong together, or are of a kind that is not supported.
    #[error("{} with tls.{key} = {secret}: {source}", certificate.display())]
    Pair {
        /// The certificate.
        certificate: PathBuf,
        /// The configuration key.
        key: &'static str,
        /// Where the key is.
        secret: Secret,
        /// Why.
        source: Box<rustls::Error>,
    },
    /// The other nodes would refuse this node's certificate.
    #[error("{} is no node certificate of the CA {}: {reason}", certificate.display(), ca.display())]
    NotOfCa {
        /// The certificate.
        certificate: PathBuf,
        /// The CA.
        ca: PathBuf,
        /// Why.
        reason: String,
    },
    /// No configuration can be made of them.
    #[error("{0}")]
    Unusable(String),
}

/// The certificates of a node, those in force at each moment.
pub struct Keyring {
    files: config::Tls,
    current: RwLock<Arc<Keys>>,
    /// The content that was looked at last, in force or not.
    seen: Mutex<[u8; 32]>,
}

/// All that was made of one state of the files.
struct Keys {
    clients: Arc<ServerConfig>,
    admins: Arc<ServerConfig>,
    peers: Arc<ServerConfig>,
    dialing: Arc<ClientConfig>,
    /// (label, last second).
    expiries: Vec<(&'static str, i64)>,
}

impl Keyring {
    /// Loads what `files` names.
    ///
    /// # Errors
    /// [`Error`]: the first file that cannot be used.
    pub fn load(files: config::Tls) -> Result<Self, Error> {
        let content = Content::read(&files)?;
        let keys = content.keys(&files)?;
        Ok(Self {
            current: RwLock::new(Arc::new(keys)),
            seen: Mutex::new(content.digest()),
            files,
        })
    }

    /// For connections to a port.
    pub(super) fn accepting(&self, port: Port) -> Arc<ServerConfig> {
        let keys = self.current.read();
        Arc::clone(match port {
            Port::Client => &keys.clients,
            Port::Admin => &keys.admins,
            Port::Peer => &keys.peers,
        })
    }

    /// For connections to other nodes.
    pub(super) fn dialing(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.current.read().dialing)
    }

    /// Reads the files and puts them in force if they have changed since the last look; true if it did.
    ///
    /// # Errors
    /// [`Error`]; what was in force still is. The same content gives the error once.
    pub fn reload(&self) -> Result<bool, Error> {
        let content = Content::read(&self.files);
        let digest = content.as_ref().map_or([0; 32], Content::digest);
        if std::mem::replace(&mut *self.seen.lock(), digest) == digest {
            return Ok(false);
        }
        let keys = content?.keys(&self.files)?;
        *self.current.write() = Arc::new(keys);
        Ok(true)
    }

    /// Follows the files and publishes their gauges until `stop`.
    ///
    /// # Errors
    /// The system refuses a handler for SIGHUP.
    pub async fn follow(
        self: Arc<Self>,
        reloaded: impl Fn(&str) + Send,
        stop: CancellationToken,
    ) -> std::io::Result<()> {
        let mut hangup = signal(SignalKind::hangup())?;
        describe_gauge!(
            CERTIFICATE_EXPIRY,
            Unit::Seconds,
            "Time until a certificate expires"
        );
        describe_gauge!(
            RELOAD_FAILED,
            "1 while changed certificates cannot be used and older ones are in force"
        );
        gauge!(RELOAD_FAILED).set(0);
        loop {
            self.publish();
            let asked = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                _ = hangup.recv() => true,
                () = tokio::time::sleep(LOOK_EVERY) => false,
            };
            let keyring = Arc::clone(&self);
            // Files: they may lie on a disk that hangs.
            let outcome = tokio::task::spawn_blocking(move || keyring.reload()).await;
            match outcome {
                Ok(Ok(true)) => {
                    tracing::info!("certificates reloaded");
                    reloaded("changed files are in force");
                    gauge!(RELOAD_FAILED).set(0);
                }
                Ok(Ok(false)) if asked => tracing::info!("certificates have not changed"),
                Ok(Ok(false)) => {}
                Ok(Err(error)) => {
                    reloaded("changed files cannot be used");
                    tracing::error!(%error, "changed certificates cannot be used, the old ones stay in force");
                    gauge!(RELOAD_FAILED).set(1);
                }
                Err(error) => tracing::error!(%error, "certificates could not be looked at"),
            }
        }
    }

    fn publish(&self) {
        let now = facts::now();
        for (label, last) in &self.current.read().expiries {
            gauge!(CERTIFICATE_EXPIRY, "certificate" => *label).set((last - now) as f64);
        }
    }
}

/// One state of the files.
struct Content {
    ca: Vec<u8>,
    node: (Vec<u8>, String),
    client: Option<(Vec<u8>, String)>,
}

impl Content {
    fn read(files: &config::Tls) -> Result<Self, Error> {
        let client = match files.client_key.is_set() {
            true => Some((
                read(&files.client_certificate)?,
                secret("client_key", &files.client_key)?,
            )),
            false => None,
        };
        Ok(Self {
            ca: read(&files.ca)?,
            node: (read(&files.certificate)?, secret("key", &files.key)?),
            client,
        })
    }

    fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let pairs = [Some(&self.node), self.client.as_ref()];
        let pairs = pairs
            .into_iter()
            .flatten()
            .flat_map(|(certificate, key)| [certificate.as_slice(), key.as_bytes()]);
        for part in [self.ca.as_slice()].into_iter().chain(pairs) {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        hash.finalize().into()
    }

    fn keys(&self, files: &config::Tls) -> Result<Keys, Error> {
        let authorities = facts::certificates(&files.ca, &self.ca).map_err(Error::Certificates)?;
        // An old CA may expire beside the new one; that none is left shows in the check of the own certificate.
        let mut ca_expires = i64::MAX;
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            ca_expires = ca_expires.min(read_facts(&files.ca, &authority)?.not_after);
            roots
                .add(authority)
                .map_err(|error| Error::Certificates(format!("{}: {error}", files.ca.display())))?;
        }
        let roots = Arc::new(roots);
        let (node, node_expires) = pair(&files.certificate, "key", &files.key, &self.node)?;
        nodes::check_own(&node.cert, &roots).map_err(|error| Error::NotOfCa {
            certificate: files.certificate.clone(),
            ca: files.ca.clone(),
            reason: nodes::explain(&error).map_or_else(|| error.to_string(), str::to_owned),
        })?;
        let mut expiries = vec![("ca", ca_expires), ("node", node_expires)];
        let client = match &self.client {
            None => Arc::clone(&node),
            Some(content) => {
                let (client, expires) = pair(
                    &files.client_certificate,
                    "client_key",
                    &files.client_key,
                    content,
                )?;
                expiries.push(("client", expires));
                client
            }
        };
        let peers = NodesOnly::new(Arc::clone(&roots)).map_err(unusable)?;
        let mut peers = server(&node, Arc::new(peers), PEER_VERSIONS, &["h2"])?;
        // A resumed session would be judged by the certificate of its beginning.
        peers.session_storage = Arc::new(NoServerSessionStorage {});
        peers.send_tls13_tickets = 0;
        let with_clients = |needed: bool| -> Result<Arc<dyn ClientCertVerifier>, Error> {
            Ok(match needed {
                true => WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), provider())
                    .build()
                    .map_err(unusable)?,
                false => Arc::new(NoClientAuth),
            })
        };
        let http = &["h2", "http/1.1"];
        let clients = with_clients(files.clients_need_certificate)?;
        let admins = with_clients(files.admins_need_certificate)?;
        Ok(Keys {
            clients: Arc::new(server(&client, clients, CLIENT_VERSIONS, http)?),
            admins: Arc::new(server(&node, admins, CLIENT_VERSIONS, http)?),
            peers: Arc::new(peers),
            dialing: Arc::new(dialing(&node, &roots)?),
            expiries,
        })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })
}

/// Said when a key is taken into use, not at each look.
fn warn_if_readable(key: &'static str, secret: &Secret) {
    if let Secret::File(path) = secret
        && let Ok(about) = std::fs::metadata(path)
        && about.permissions().mode() & READABLE_BY_OTHERS != 0
    {
        tracing::warn!(key, path = %path.display(), "the private key can be read by others: chmod 600");
    }
}

fn secret(key: &'static str, secret: &Secret) -> Result<String, Error> {
    secret
        .read()
        .map_err(|source| Error::Secret { key, source })
}

fn read_facts(path: &Path, certificate: &CertificateDer<'_>) -> Result<Facts, Error> {
    Facts::of(certificate)
        .map_err(|reason| Error::Certificates(format!("{}: {reason}", path.display())))
}

/// A certificate with its key, and its last second.
fn pair(
    path: &Path,
    key: &'static str,
    from: &Secret,
    (certificate, private): &(Vec<u8>, String),
) -> Result<(Arc<CertifiedKey>, i64), Error> {
    let chain = facts::certificates(path, certificate).map_err(Error::Certificates)?;
    let own = read_facts(path, &chain[0])?;
    own.check_time(facts::now()).map_err(|reason| Error::Time {
        path: path.to_owned(),
        reason,
    })?;
    let private = PrivateKeyDer::from_pem_slice(private.as_bytes()).map_err(|_| Error::NoKey {
        key,
        secret: from.clone(),
    })?;
    let certified =
        CertifiedKey::from_der(chain, private, &provider()).map_err(|source| Error::Pair {
            certificate: path.to_owned(),
            key,
            secret: from.clone(),
            source: Box::new(source),
        })?;
    warn_if_readable(key, from);
    Ok((Arc::new(certified), own.not_after))
}

fn server(
    key: &Arc<CertifiedKey>,
    verifier: Arc<dyn ClientCertVerifier>,
    versions: &[&'static SupportedProtocolVersion],
    protocols: &[&str],
) -> Result<ServerConfig, Error> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .map_err(unusable)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(key))));
    config.alpn_protocols = protocols
        .iter()
        .map(|name| name.as_bytes().to_vec())
        .collect();
    Ok(config)
}

fn dialing(key: &Arc<CertifiedKey>, roots: &Arc<RootCertStore>) -> Result<ClientConfig, Error> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(PEER_VERSIONS)
        .map_err(unusable)?
        .with_root_certificates(Arc::clone(roots))
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(key))));
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn unusable(error: impl std::fmt::Display) -> Error {
    Error::Unusable(error.to_string())
}
