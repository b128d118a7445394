//! TLS of the client verbs: whom to trust, and what to show.
//!
//! One configuration serves HTTP, gRPC and the plain sockets of `bench`. Without `--ca` the system's CAs are trusted, which are read
//! only where an address is `https://`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

use super::exit::{Exit, Status};
use crate::tls::{facts, provider};

/// Certificates for https:// addresses. The ids carry a prefix, since documents have keys too.
#[derive(Args, Clone, Debug, Default)]
pub struct TlsArgs {
    /// Certificates (PEM) to trust for https:// addresses, instead of the system's
    #[arg(id = "tls_ca", long = "ca", env = "LARDER_CA", value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// A certificate (PEM) to show, where the node asks for one
    #[arg(
        id = "tls_cert",
        long = "cert",
        env = "LARDER_CERT",
        value_name = "FILE",
        requires = "tls_key"
    )]
    pub cert: Option<PathBuf>,
    /// The private key (PEM) of --cert
    #[arg(
        id = "tls_key",
        long = "key",
        env = "LARDER_KEY",
        value_name = "FILE",
        requires = "tls_cert"
    )]
    pub key: Option<PathBuf>,
}

impl TlsArgs {
    /// The configuration for connections to `urls`.
    ///
    /// # Errors
    /// A file cannot be read or used; nothing was sent.
    pub(crate) fn config<'a>(
        &self,
        urls: impl IntoIterator<Item = &'a str>,
    ) -> anyhow::Result<ClientConfig> {
        let mut roots = RootCertStore::empty();
        match &self.ca {
            Some(path) => {
                let pem = read(path)?;
                for certificate in facts::certificates(path, &pem).map_err(unusable)? {
                    roots
                        .add(certificate)
                        .map_err(|error| unusable(format!("{}: {error}", path.display())))?;
                }
            }
            None if urls.into_iter().any(is_secure) => {
                // Those that cannot be read are as good as not there: the node is trusted by the others, or not.
                let found = rustls_native_certs::load_native_certs();
                roots.add_parsable_certificates(found.certs);
            }
            None => {}
        }
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let (Some(cert), Some(key)) = (&self.cert, &self.key) else {
            return Ok(builder.with_no_client_auth());
        };
        let chain = facts::certificates(cert, &read(cert)?).map_err(unusable)?;
        let private = PrivateKeyDer::from_pem_slice(&read(key)?)
            .map_err(|error| unusable(format!("{}: {error}", key.display())))?;
        builder
            .with_client_auth_cert(chain, private)
            .map_err(|error| {
                unusable(format!(
                    "{} with {}: {error}",
                    cert.display(),
                    key.display()
                ))
            })
    }

    /// The beginnings of an HTTP client for `urls`.
    ///
    /// # Errors
    /// As [`Self::config`].
    pub(crate) fn http<'a>(
        &self,
        urls: impl IntoIterator<Item = &'a str>,
    ) -> anyhow::Result<reqwest::ClientBuilder> {
        let config = self.config(urls)?;
        Ok(reqwest::Client::builder().tls_backend_preconfigured(config))
    }

    /// TLS for sockets and gRPC; `None` if none of `urls` is https://.
    ///
    /// # Errors
    /// As [`Self::config`]; some are https:// and others are not.
    pub(crate) fn secure<'a>(
        &self,
        urls: impl IntoIterator<Item = &'a str> + Clone,
    ) -> anyhow::Result<Option<Secure>> {
        let secure = urls
            .clone()
            .into_iter()
            .filter(|url| is_secure(url))
            .count();
        if secure == 0 {
            return Ok(None);
        }
        anyhow::ensure!(
            urls.clone().into_iter().count() == secure,
            "all addresses must be https://, or none"
        );
        Ok(Some(Secure(Arc::new(self.config(urls)?))))
    }
}

/// TLS as a client.
#[derive(Clone, Debug)]
pub(crate) struct Secure(Arc<ClientConfig>);

impl Secure {
    /// Shakes hands over `stream` with the server at `host:port`.
    pub(crate) async fn connect(
        &self,
        address: &str,
        stream: TcpStream,
        protocol: &'static str,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut config = ClientConfig::clone(&self.0);
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let name = ServerName::try_from(host(address).to_owned()).map_err(std::io::Error::other)?;
        TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
    }
}

/// A gRPC channel, connected when it is first used; with TLS if there is any.
pub(crate) fn channel(endpoint: &Endpoint, secure: Option<&Secure>) -> Channel {
    let Some(secure) = secure.cloned() else {
        return endpoint.connect_lazy();
    };
    endpoint.connect_with_connector_lazy(tower::service_fn(move |uri: http::Uri| {
        let secure = secure.clone();
        async move {
            let port = uri.port_u16().unwrap_or(443);
            let address = format!("{}:{port}", uri.host().unwrap_or_default());
            let stream = TcpStream::connect(&address).await?;
            stream.set_nodelay(true)?;
            let stream = secure.connect(&address, stream, "h2").await?;
            Ok::<_, std::io::Error>(TokioIo::new(stream))
        }
    }))
}

/// Whether a URL asks for TLS.
pub(crate) fn is_secure(url: &str) -> bool {
    url.starts_with("https://")
}

/// `host` of `host:port`, without the brackets of IPv6.
fn host(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

fn unusable(message: String) -> anyhow::Error {
    Exit::new(Status::Error, message).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_lose_port_and_brackets() {
        assert_eq!(host("10.0.0.1:7400"), "10.0.0.1");
        assert_eq!(host("[::1]:7400"), "::1");
        assert_eq!(host("node"), "node");
    }

    #[test]
    fn plain_and_secure_addresses_do_not_mix() {
        let args = TlsArgs::default();
        assert!(args.secure(["http://a:1"]).unwrap().is_none());
        assert!(args.secure(["http://a:1", "https://b:1"]).is_err());
    }
}
