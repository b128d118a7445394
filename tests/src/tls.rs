//! Certificates of a test's own, made by `larder cert`, and clients that use them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::binary::{Output, run};

/// The name that makes a certificate a node's.
pub const NODE_NAME: &str = "node.larder.internal";

/// A folder with a CA and what it made.
#[derive(Clone, Debug)]
pub struct Certs {
    dir: PathBuf,
}

impl Certs {
    /// A new CA in `dir`.
    pub async fn make(dir: &Path) -> Certs {
        let certs = Certs {
            dir: dir.to_owned(),
        };
        certs.cert(&["create-ca"]).await.expect(0);
        certs
    }

    /// A certificate for a node on loopback.
    pub async fn node(&self, name: &str) {
        self.cert(&["create-node", name, "--host", "127.0.0.1"])
            .await
            .expect(0);
    }

    /// `larder cert` with these arguments, on this folder.
    pub async fn cert(&self, arguments: &[&str]) -> Output {
        let dir = self.dir.display().to_string();
        run(["cert"].iter().chain(arguments).chain(&["--dir", &dir])).await
    }

    /// A file of the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The section of a node's configuration.
    pub fn section(&self, name: &str) -> String {
        format!(
            "[tls]\nca = {:?}\ncertificate = {:?}\nkey = \"file:{}\"\n",
            self.path("ca.crt"),
            self.path(&format!("{name}.crt")),
            self.path(&format!("{name}.key")).display(),
        )
    }

    /// Who trusts this CA and shows nothing.
    pub fn trust(&self) -> Trust {
        Trust {
            ca: Some(self.path("ca.crt")),
            own: None,
        }
    }

    /// Who trusts this CA and shows a certificate of it.
    pub fn trust_as(&self, name: &str) -> Trust {
        Trust {
            own: Some((
                self.path(&format!("{name}.crt")),
                self.path(&format!("{name}.key")),
            )),
            ..self.trust()
        }
    }

    /// A certificate of this CA that was valid for the year 2020, for a node.
    pub fn expired_node(&self, name: &str) {
        let text = |file: &str| std::fs::read_to_string(self.path(file)).expect("the CA");
        let key = KeyPair::from_pem(&text("ca.key")).expect("the key of the CA");
        let issuer = Issuer::from_ca_cert_pem(&text("ca.crt"), key).expect("the CA");
        let names = [NODE_NAME, "127.0.0.1"].map(str::to_owned);
        let mut params = CertificateParams::new(names).expect("names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        (params.not_before, params.not_after) =
            (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &issuer).expect("a certificate");
        std::fs::write(self.path(&format!("{name}.crt")), certificate.pem()).expect("a file");
        std::fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).expect("a file");
    }
}

/// Whom a client trusts, and what it shows.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    ca: Option<PathBuf>,
    own: Option<(PathBuf, PathBuf)>,
}

impl Trust {
    /// The configuration, read from the files as they are now.
    pub fn config(&self) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        if let Some(ca) = &self.ca {
            roots.add_parsable_certificates(certificates(ca));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions of the provider")
            .with_root_certificates(roots);
        match &self.own {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let key = PrivateKeyDer::from_pem_file(key).expect("a key");
                builder
                    .with_client_auth_cert(certificates(certificate), key)
                    .expect("a certificate with its key")
            }
        }
    }

    /// The beginnings of an HTTP client.
    pub fn http(&self) -> reqwest::ClientBuilder {
        reqwest::Client::builder().tls_backend_preconfigured(self.config())
    }

    /// Shakes hands with whoever listens at `address` and calls itself `name`.
    ///
    /// # Errors
    /// One side refuses the other; with TLS 1.3 the server's refusal may come with the first read only.
    pub async fn connect(
        &self,
        address: SocketAddr,
        name: &str,
        protocols: &[&str],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut config = self.config();
        config.alpn_protocols = protocols
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let stream = TcpStream::connect(address).await?;
        TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
    }
}

/// The certificates of a PEM file.
pub fn certificates(path: &Path) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(path)
        .expect("a file of certificates")
        .collect::<Result<_, _>>()
        .expect("certificates in PEM form")
}
