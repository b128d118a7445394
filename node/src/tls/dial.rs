//! Connections to other nodes: this node shows its certificate, and talks only to a node of its cluster.

use std::io;
use std::sync::Arc;

use futures::future::BoxFuture;
use raft::transport::dial::{Dial, Wire, open};
use rustls::{AlertDescription, Error};
use tokio_rustls::TlsConnector;

use super::Keyring;
use super::nodes::{explain, node_name};

/// Dials with the certificates that are in force at that moment.
pub(crate) struct Secure(pub(crate) Arc<Keyring>);

impl Dial for Secure {
    fn dial(&self, address: String) -> BoxFuture<'static, io::Result<Box<dyn Wire>>> {
        let connector = TlsConnector::from(self.0.dialing());
        Box::pin(async move {
            let stream = open(&address).await?;
            let wire = connector
                .connect(node_name(), stream)
                .await
                .map_err(|error| refused(&address, error))?;
            Ok(Box::new(wire) as Box<dyn Wire>)
        })
    }
}

fn refused(address: &str, error: io::Error) -> io::Error {
    let cause = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Error>());
    let meaning = match cause {
        Some(
            Error::AlertReceived(AlertDescription::InsufficientSecurity) | Error::InvalidMessage(_),
        ) => Some("it speaks no TLS: has it security.insecure = true?"),
        Some(cause) => explain(cause),
        None => None,
    };
    match meaning {
        Some(meaning) => io::Error::new(
            error.kind(),
            format!("TLS with {address}: {error}; {meaning}"),
        ),
        None => io::Error::new(error.kind(), format!("TLS with {address}: {error}")),
    }
}
