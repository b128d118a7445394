//! Who counts as a node of this cluster: the holder of a certificate of the cluster's CA that carries [`NODE_NAME`].
//!
//! The name is the same for all nodes. Addresses change (they are re-announced metadata), names of nodes are labels, and
//! a node that holds a certificate is trusted with everything anyway, as Raft trusts its members; so the certificate says
//! *that* it is a node and of *which* cluster, and nothing more. Certificates of clients come from the same CA and lack the name.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerifier as _};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};

use super::provider;

/// In the subject's alternative names of every node certificate. `internal` is a domain that the DNS will never hold.
pub(crate) const NODE_NAME: &str = "node.larder.internal";

/// [`NODE_NAME`] as rustls wants it.
pub(super) fn node_name() -> ServerName<'static> {
    ServerName::try_from(NODE_NAME).expect("a constant that is a DNS name")
}

/// Takes connections of this cluster's nodes only.
#[derive(Debug)]
pub(super) struct NodesOnly {
    chain: Arc<dyn ClientCertVerifier>,
}

impl NodesOnly {
    /// # Errors
    /// `roots` is empty.
    pub(super) fn new(roots: Arc<RootCertStore>) -> Result<Self, VerifierBuilderError> {
        let chain = WebPkiClientVerifier::builder_with_provider(roots, provider()).build()?;
        Ok(Self { chain })
    }
}

impl ClientCertVerifier for NodesOnly {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self
            .chain
            .verify_client_cert(end_entity, intermediates, now)?;
        let parsed = ParsedCertificate::try_from(end_entity)?;
        rustls::client::verify_server_name(&parsed, &node_name())?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// Whether the other nodes would take this chain, asked and asking.
///
/// # Errors
/// What they would refuse it for.
pub(super) fn check_own(
    chain: &[CertificateDer<'static>],
    roots: &Arc<RootCertStore>,
) -> Result<(), Error> {
    let Some((own, between)) = chain.split_first() else {
        return Err(Error::NoCertificatesPresented);
    };
    let now = UnixTime::now();
    let asked = WebPkiServerVerifier::builder_with_provider(Arc::clone(roots), provider())
        .build()
        .map_err(|error| Error::General(error.to_string()))?;
    asked.verify_server_cert(own, between, &node_name(), &[], now)?;
    let asking =
        NodesOnly::new(Arc::clone(roots)).map_err(|error| Error::General(error.to_string()))?;
    asking.verify_client_cert(own, between, now)?;
    Ok(())
}

/// What a refused certificate means, for people; `None` if the error is about something else.
pub(super) fn explain(error: &Error) -> Option<&'static str> {
    use rustls::CertificateError::{
        BadSignature, Expired, ExpiredContext, InvalidPurpose, InvalidPurposeContext,
        NotValidForName, NotValidForNameContext, NotValidYet, NotValidYetContext, UnknownIssuer,
    };
    let Error::InvalidCertificate(refused) = error else {
        return match error {
            Error::NoCertificatesPresented => Some("no certificate was shown"),
            _ => None,
        };
    };
    match refused {
        UnknownIssuer | BadSignature => {
            Some("the certificate is not of this cluster's CA (tls.ca)")
        }
        NotValidForName
        | NotValidForNameContext { .. }
        | InvalidPurpose
        | InvalidPurposeContext { .. } => {
            Some("the certificate is no node's: larder cert create-node makes one")
        }
        Expired | ExpiredContext { .. } => Some("the certificate has expired"),
        NotValidYet | NotValidYetContext { .. } => {
            Some("the certificate is not valid yet, or a clock is wrong")
        }
        _ => None,
    }
}
