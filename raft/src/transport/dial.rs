//! How a connection to a peer is made: the seam to what protects it.
//!
//! A dialer gives a stream of bytes that the peer reads as they were sent, and vouches for who the peer is. [`Plain`]
//! vouches for nothing; one with certificates belongs to the node, which knows where they lie.

use std::error::Error;
use std::io;
use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// A connection, whatever protects it.
pub trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// Makes connections to peers.
pub trait Dial: Send + Sync + 'static {
    /// Connects to `host:port`. The caller sets the time-out, by dropping the future.
    fn dial(&self, address: String) -> BoxFuture<'static, io::Result<Box<dyn Wire>>>;
}

/// Who makes the connections of a node.
pub type Dialer = Arc<dyn Dial>;

/// Bytes as they are, to whoever listens.
pub struct Plain;

impl Dial for Plain {
    fn dial(&self, address: String) -> BoxFuture<'static, io::Result<Box<dyn Wire>>> {
        Box::pin(async move { Ok(Box::new(open(&address).await?) as Box<dyn Wire>) })
    }
}

/// A TCP connection that sends what is written at once.
///
/// # Errors
/// The name is not known, or nobody accepts.
pub async fn open(address: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    // Frames are written whole; waiting to fill a packet would only delay them.
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// What lies at the bottom of an error: the layers above it say only that a connection failed.
pub fn cause(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
