//! One mail server: connecting to it as configured, and handing it mails.
//!
//! What a server says before it is asked to take a mail is never about that mail. A refusal of the greeting, of TLS or of the log-in means
//! that nothing can be delivered now, whatever its code says; so neither somebody who stands in between nor a wrong password makes a mail
//! disappear.

use std::future::Future;
use std::time::Duration;

use anyhow::Context as _;
use lettre::address::Envelope;
use lettre::transport::smtp::Error;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{
    AsyncSmtpConnection, Certificate, CertificateStore, TlsParameters,
};
use lettre::transport::smtp::extension::ClientId;

use crate::config::{MailEncryption, Smtp};

/// For connecting, and for each mail: a server that says nothing more must not hold up the rest.
const TIME: Duration = Duration::from_secs(20);

/// How passwords are sent; only once the connection is secret, or where nothing is.
const MECHANISMS: [Mechanism; 2] = [Mechanism::Plain, Mechanism::Login];

/// A server as it is configured.
pub(super) struct Server {
    host: String,
    port: u16,
    security: Security,
    credentials: Option<Credentials>,
    own_name: ClientId,
}

enum Security {
    None,
    /// A server that does not offer it is left alone.
    Starttls(TlsParameters),
    /// From the first byte.
    Tls(TlsParameters),
}

/// What a server said to a mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// It has it.
    Taken,
    /// It will never take it.
    Never,
    /// It may take it later.
    Later,
    /// Nothing: the connection is of no use any more.
    Nothing,
}

/// A connection that mails can be sent over.
pub(super) struct Connection(AsyncSmtpConnection);

impl Server {
    /// The configured server. Connects to nobody yet.
    ///
    /// # Errors
    /// The password or the CA cannot be read.
    pub(super) fn new(config: &Smtp) -> anyhow::Result<Server> {
        let (security, port) = match config.encryption {
            MailEncryption::Starttls => (Security::Starttls(tls(config)?), 587),
            MailEncryption::Tls => (Security::Tls(tls(config)?), 465),
            MailEncryption::None => (Security::None, 25),
        };
        let credentials = match config.user.is_empty() {
            true => None,
            false => {
                let password = config.password.read_line().context("mail.smtp.password")?;
                Some(Credentials::new(config.user.clone(), password))
            }
        };
        Ok(Server {
            host: config.host.clone(),
            port: if config.port == 0 { port } else { config.port },
            security,
            credentials,
            own_name: ClientId::default(),
        })
    }

    /// A connection, secret and logged in as configured.
    ///
    /// # Errors
    /// There is none to be had now.
    pub(super) async fn connect(&self) -> anyhow::Result<Connection> {
        in_time(self.try_connect())
            .await
            .context("no answer in time")?
            .map(Connection)
            .map_err(anyhow::Error::new)
    }

    async fn try_connect(&self) -> Result<AsyncSmtpConnection, Error> {
        let place = (self.host.as_str(), self.port);
        let from_start = match &self.security {
            Security::Tls(tls) => Some(tls.clone()),
            Security::Starttls(_) | Security::None => None,
        };
        let connecting =
            AsyncSmtpConnection::connect_tokio1(place, None, &self.own_name, from_start, None);
        let mut connection = connecting.await?;
        if let Security::Starttls(tls) = &self.security {
            connection.starttls(tls.clone(), &self.own_name).await?;
        }
        if let Some(credentials) = &self.credentials {
            connection.auth(&MECHANISMS, credentials).await?;
        }
        Ok(connection)
    }
}

impl Connection {
    /// Hands over one mail. Another one may follow unless it said [`Said::Nothing`].
    pub(super) async fn send(&mut self, envelope: &Envelope, mail: &[u8]) -> Said {
        match in_time(self.0.send(envelope, mail)).await {
            Some(Ok(_)) => Said::Taken,
            // What its server cannot do for an address, it will not learn while the mail waits.
            Some(Err(error)) if error.is_permanent() || error.is_client() => Said::Never,
            Some(Err(error)) if error.is_transient() => Said::Later,
            Some(Err(_)) | None => Said::Nothing,
        }
    }

    /// Whether another mail may follow: a refusal ends the connection.
    pub(super) fn is_open(&self) -> bool {
        !self.0.has_broken()
    }

    /// Ends it in order.
    pub(super) async fn quit(mut self) {
        // What was sent was acknowledged: there is nothing to lose.
        let _ = in_time(self.0.quit()).await;
    }
}

fn tls(config: &Smtp) -> anyhow::Result<TlsParameters> {
    let mut tls = TlsParameters::builder(config.host.clone());
    if !config.ca.as_os_str().is_empty() {
        let name = || format!("mail.smtp.ca: {}", config.ca.display());
        let pem = std::fs::read(&config.ca).with_context(name)?;
        let ca = Certificate::from_pem(&pem).with_context(name)?;
        tls = tls
            .certificate_store(CertificateStore::None)
            .add_root_certificate(ca);
    }
    tls.build_rustls().context("mail.smtp: TLS")
}

async fn in_time<T>(work: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(TIME, work).await.ok()
}
