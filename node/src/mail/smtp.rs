//! Delivering the mails of the spool to a mail server.
//!
//! The spool is the queue: a mail is on the disk before its sender is told that it is safe, and its file goes only once the server has taken
//! it. So mails survive a restart, and a server that is away for a while costs nobody anything; the spool's own bound bounds the queue.
//! A server that dies between taking a mail and saying so gets it twice.
//!
//! A mail that the server refuses for good, or that is older than [`AGE_MAX`], is dropped: what it says is over by then. One that it
//! refuses for now stays, and holds up no other. Nothing that is logged holds an address or a text.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::Context as _;
use lettre::message::Mailbox;
use lettre::message::header::ContentType;
use lettre::{Address, Message};
use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};
use service::clock::{Clock as _, SystemClock};
use tokio_util::sync::CancellationToken;

use super::server::{Connection, Said, Server};
use crate::config::Smtp;

/// Mails by outcome: `sent`, `refused` by the server for good, `over` age, `unreadable`.
pub(crate) const MAILS: &str = "larder_mails_total";
/// Mails that wait for the server.
pub(crate) const MAILS_WAITING: &str = "larder_mails_waiting";

/// Between two looks at the spool.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Before the next attempt after a failure, doubled each time up to the other.
const RETRY_MIN: Duration = Duration::from_secs(5);
const RETRY_MAX: Duration = Duration::from_secs(600);
/// What mails say ends within a day.
const AGE_MAX: Duration = Duration::from_secs(2 * 24 * 3600);

/// What became of one mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Sent,
    Refused,
    Over,
    Unreadable,
    /// It stays, and is tried again.
    Later,
}

impl Outcome {
    /// As metrics have it; `None`: nothing became of it yet.
    fn label(self) -> Option<&'static str> {
        match self {
            Outcome::Sent => Some("sent"),
            Outcome::Refused => Some("refused"),
            Outcome::Over => Some("over"),
            Outcome::Unreadable => Some("unreadable"),
            Outcome::Later => None,
        }
    }
}

/// Takes mails out of the spool.
pub(crate) struct Delivery {
    dir: PathBuf,
    from: Mailbox,
    server: Server,
}

impl Delivery {
    /// Delivery of what lies in `dir`, as configured. Connects to nobody yet.
    ///
    /// # Errors
    /// The password or the CA cannot be read, or the sender is no address.
    pub(crate) fn new(dir: PathBuf, config: &Smtp) -> anyhow::Result<Delivery> {
        Ok(Delivery {
            dir,
            from: config.from.parse().context("mail.smtp.from")?,
            server: Server::new(config)?,
        })
    }

    /// Delivers until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        describe_counter!(MAILS, "Mails by what became of them");
        describe_gauge!(
            MAILS_WAITING,
            Unit::Count,
            "Mails in the spool that wait for the mail server"
        );
        let mut retry = RETRY_MIN;
        loop {
            let wait = match self.round().await {
                true => {
                    retry = RETRY_MIN;
                    LOOK_EVERY
                }
                false => {
                    let wait = retry;
                    retry = (retry * 2).min(RETRY_MAX);
                    wait
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Tries every mail that lies there, oldest first, as long as there is a server; false if something is left.
    async fn round(&self) -> bool {
        let dir = self.dir.clone();
        let listed = tokio::task::spawn_blocking(move || waiting(&dir)).await;
        let files = match listed {
            Ok(Ok(files)) => files,
            Ok(Err(error)) => {
                tracing::warn!(%error, "the spool of mails cannot be read");
                return false;
            }
            Err(_) => return false,
        };
        let mut left = files.len();
        gauge!(MAILS_WAITING).set(left as f64);
        let mut connection = None;
        for file in files {
            let outcome = match self.deliver(&file, &mut connection).await {
                Ok(outcome) => outcome,
                Err(error) => {
                    tracing::warn!(%error, "the mail server cannot be reached as configured; mails wait");
                    break;
                }
            };
            let Some(label) = outcome.label() else {
                continue;
            };
            if let Err(error) = tokio::fs::remove_file(&file).await {
                // It would be sent again and again.
                tracing::error!(%error, "a delivered mail cannot be removed from the spool");
                break;
            }
            left -= 1;
            counter!(MAILS, "outcome" => label).increment(1);
            gauge!(MAILS_WAITING).set(left as f64);
        }
        if let Some(connection) = connection {
            connection.quit().await;
        }
        left == 0
    }

    /// Does with one mail what can be done, over `connection` or a new one.
    ///
    /// # Errors
    /// There is no connection to be had; the mail stays.
    async fn deliver(
        &self,
        file: &Path,
        connection: &mut Option<Connection>,
    ) -> anyhow::Result<Outcome> {
        let name = file
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let path = file.to_owned();
        let read = tokio::task::spawn_blocking(move || read(&path)).await;
        let (mail, age) = match read {
            Ok(Ok(Some(found))) => found,
            Ok(Ok(None)) => {
                tracing::warn!(mail = name, "dropped: the file is no mail of ours");
                return Ok(Outcome::Unreadable);
            }
            Ok(Err(_)) | Err(_) => return Ok(Outcome::Later),
        };
        if age > AGE_MAX {
            tracing::warn!(mail = name, "dropped: it waited too long");
            return Ok(Outcome::Over);
        }
        let Some(message) = self.message(&mail) else {
            tracing::warn!(mail = name, "dropped: its address is none");
            return Ok(Outcome::Refused);
        };
        let mut open = match connection.take().filter(Connection::is_open) {
            Some(open) => open,
            None => self.server.connect().await?,
        };
        let said = open.send(message.envelope(), &message.formatted()).await;
        if said != Said::Nothing {
            *connection = Some(open);
        }
        Ok(match said {
            Said::Taken => Outcome::Sent,
            Said::Never => {
                tracing::warn!(mail = name, "dropped: the mail server refuses it");
                Outcome::Refused
            }
            Said::Later => {
                tracing::warn!(mail = name, "the mail server does not take it now");
                Outcome::Later
            }
            Said::Nothing => anyhow::bail!("the connection broke off"),
        })
    }

    fn message(&self, mail: &Parsed) -> Option<Message> {
        let to: Address = mail.to.parse().ok()?;
        Message::builder()
            .from(self.from.clone())
            .to(Mailbox::new(None, to))
            .subject(mail.subject.clone())
            .header(ContentType::TEXT_PLAIN)
            .body(mail.text.clone())
            .ok()
    }
}

/// A mail of the spool.
#[derive(Debug, PartialEq, Eq)]
struct Parsed {
    to: String,
    subject: String,
    text: String,
}

/// The files that are whole mails; their names begin with the time.
fn waiting(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        // It is made with the first mail.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let hidden = path
            .file_name()
            .is_none_or(|name| name.to_string_lossy().starts_with('.'));
        if !hidden && path.extension().is_some_and(|end| end == "eml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// A mail and how long it has waited.
fn read(path: &Path) -> io::Result<Option<(Parsed, Duration)>> {
    let written = fs::metadata(path)?.modified()?;
    let now = UNIX_EPOCH + Duration::from_micros(SystemClock::new().wall_us());
    let age = now.duration_since(written).unwrap_or_default();
    let bytes = fs::read(path)?;
    Ok(parse(&bytes).map(|mail| (mail, age)))
}

/// Reads what the spool renders: header fields of one line each, a blank line, the text.
fn parse(bytes: &[u8]) -> Option<Parsed> {
    let whole = std::str::from_utf8(bytes).ok()?;
    let (head, text) = whole.split_once("\r\n\r\n")?;
    let field = |name: &str| {
        let mut lines = head.split("\r\n");
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    };
    Some(Parsed {
        to: field("To")?.to_owned(),
        subject: field("Subject")?.to_owned(),
        text: text.to_owned(),
    })
}

#[cfg(test)]
mod tests;
