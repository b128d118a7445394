//! Delivering the mails of the spool to a mail server.
//!
//! The spool is the queue: a mail is on the disk before its sender is told that it is safe, and its file goes only once the server has taken
//! it. So mails survive a restart, and a server that is away for a while costs nobody anything; the spool's own bound bounds the queue.
//! A server that dies between taking a mail and saying so gets it twice.
//!
//! A mail that the server refuses for good, or that is older than [`AGE_MAX`], is dropped: what it says is over by then. Nothing that is
//! logged holds an address or a text.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::Context as _;
use lettre::message::Mailbox;
use lettre::message::header::ContentType;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Tls, TlsParameters};
use lettre::{Address, AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor};
use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};
use service::clock::{Clock as _, SystemClock};
use tokio_util::sync::CancellationToken;

use crate::config::{MailEncryption, Smtp};

/// Mails by outcome: `sent`, `refused` by the server for good, `over` age, `unreadable`.
pub(crate) const MAILS: &str = "larder_mails_total";
/// Mails that wait for the server.
pub(crate) const MAILS_WAITING: &str = "larder_mails_waiting";

/// Between two looks at the spool.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Before the next attempt after a failure, doubled each time up to the other.
const RETRY_MIN: Duration = Duration::from_secs(5);
const RETRY_MAX: Duration = Duration::from_secs(600);
/// For one mail, connecting included.
const SEND_TIME: Duration = Duration::from_secs(20);
/// What mails say ends within a day.
const AGE_MAX: Duration = Duration::from_secs(2 * 24 * 3600);

/// What became of one mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Sent,
    Refused,
    Over,
    Unreadable,
    /// The server cannot take mails now.
    Later,
}

/// Takes mails out of the spool.
pub(crate) struct Delivery {
    dir: PathBuf,
    from: Mailbox,
    server: AsyncSmtpTransport<Tokio1Executor>,
}

impl Delivery {
    /// Delivery of what lies in `dir`, as configured. Connects to nobody yet.
    ///
    /// # Errors
    /// The password cannot be read, or the sender is no address.
    pub(crate) fn new(dir: PathBuf, config: &Smtp) -> anyhow::Result<Delivery> {
        let from: Mailbox = config.from.parse().context("mail.smtp.from")?;
        let tls = || TlsParameters::new_rustls(config.host.clone()).context("mail.smtp: TLS");
        let (tls, port) = match config.encryption {
            MailEncryption::Starttls => (Tls::Required(tls()?), 587),
            MailEncryption::Tls => (Tls::Wrapper(tls()?), 465),
            MailEncryption::None => (Tls::None, 25),
        };
        let port = if config.port == 0 { port } else { config.port };
        let mut server =
            AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(config.host.clone())
                .port(port)
                .tls(tls)
                .timeout(Some(SEND_TIME));
        if !config.user.is_empty() {
            let password = config.password.read_line().context("mail.smtp.password")?;
            server = server.credentials(Credentials::new(config.user.clone(), password));
        }
        Ok(Delivery {
            dir,
            from,
            server: server.build(),
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

    /// Tries every mail that lies there, oldest first, until the server cannot take one; false then.
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
        for file in files {
            let outcome = self.deliver(&file).await;
            let label = match outcome {
                Outcome::Sent => "sent",
                Outcome::Refused => "refused",
                Outcome::Over => "over",
                Outcome::Unreadable => "unreadable",
                Outcome::Later => return false,
            };
            if let Err(error) = tokio::fs::remove_file(&file).await {
                // It would be sent again and again.
                tracing::error!(%error, "a delivered mail cannot be removed from the spool");
                return false;
            }
            left -= 1;
            counter!(MAILS, "outcome" => label).increment(1);
            gauge!(MAILS_WAITING).set(left as f64);
        }
        true
    }

    async fn deliver(&self, file: &Path) -> Outcome {
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
                return Outcome::Unreadable;
            }
            Ok(Err(_)) | Err(_) => return Outcome::Later,
        };
        if age > AGE_MAX {
            tracing::warn!(mail = name, "dropped: it waited too long");
            return Outcome::Over;
        }
        let Some(message) = self.message(&mail) else {
            tracing::warn!(mail = name, "dropped: its address is none");
            return Outcome::Refused;
        };
        match self.server.send(message).await {
            Ok(_) => Outcome::Sent,
            Err(error) if error.is_permanent() => {
                let status = error.status().map(|code| code.to_string());
                tracing::warn!(mail = name, status, "dropped: the mail server refuses it");
                Outcome::Refused
            }
            Err(error) => {
                let status = error.status().map(|code| code.to_string());
                let timed_out = error.is_timeout();
                tracing::warn!(
                    mail = name,
                    status,
                    timed_out,
                    "the mail server cannot take it now"
                );
                Outcome::Later
            }
        }
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
mod tests {
    use std::sync::Arc;

    use service::clock::ManualClock;
    use service::ports::{Mail, Mailer as _};
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
    use tokio::net::TcpListener;

    use super::super::Spool;
    use super::*;
    use crate::config::Secret;

    /// A mail server that takes `mails` connections, answers the recipient with `status`, and gives what it was sent.
    async fn server(listener: TcpListener, status: &'static str) -> String {
        let (stream, _) = listener.accept().await.expect("a connection");
        let (read, mut write) = stream.into_split();
        let mut lines = BufReader::new(read).lines();
        let mut seen = String::new();
        let mut in_data = false;
        write.write_all(b"220 test ESMTP\r\n").await.expect("sent");
        while let Ok(Some(line)) = lines.next_line().await {
            seen.push_str(&line);
            seen.push('\n');
            let answer = match (&line[..], in_data) {
                (".", true) => {
                    in_data = false;
                    "250 taken\r\n".to_owned()
                }
                (_, true) => continue,
                ("DATA", _) => {
                    in_data = true;
                    "354 go on\r\n".to_owned()
                }
                (line, _) if line.starts_with("EHLO") => "250-test\r\n250 8BITMIME\r\n".to_owned(),
                (line, _) if line.starts_with("RCPT") => format!("{status}\r\n"),
                ("QUIT", _) => {
                    write.write_all(b"221 bye\r\n").await.expect("sent");
                    break;
                }
                _ => "250 fine\r\n".to_owned(),
            };
            if write.write_all(answer.as_bytes()).await.is_err() {
                break;
            }
        }
        seen
    }

    fn config(port: u16) -> Smtp {
        Smtp {
            host: "127.0.0.1".to_owned(),
            port,
            encryption: MailEncryption::None,
            user: String::new(),
            password: Secret::Absent,
            from: "Larder <no-reply@example.org>".to_owned(),
        }
    }

    async fn spooled() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("folder");
        let spool = dir.path().join("mail");
        let sender = Spool::new(spool.clone(), Arc::new(ManualClock::at(5)));
        let mail = Mail {
            to: "ann@example.org".to_owned(),
            subject: "Grüße".to_owned(),
            text: "a link\n.\nthe end".to_owned(),
        };
        sender.send(mail).await.expect("left");
        (dir, spool)
    }

    #[tokio::test]
    async fn a_mail_leaves_the_spool_when_the_server_has_it() {
        let (_dir, spool) = spooled().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let server = tokio::spawn(server(listener, "250 fine"));
        let delivery = Delivery::new(spool.clone(), &config(port)).expect("a delivery");
        assert!(delivery.round().await);
        assert!(waiting(&spool).expect("listed").is_empty());
        drop(delivery);
        let seen = server.await.expect("the server");
        assert!(seen.contains("MAIL FROM:<no-reply@example.org>"), "{seen}");
        assert!(seen.contains("RCPT TO:<ann@example.org>"), "{seen}");
        // Words beyond ASCII are encoded, and a line of a single dot is none to the server.
        assert!(seen.contains("Subject: =?utf-8?"), "{seen}");
        assert!(seen.contains("a link") && seen.contains("\n..\n"), "{seen}");
    }

    #[tokio::test]
    async fn a_refused_mail_is_dropped_and_one_without_a_server_stays() {
        let (_dir, spool) = spooled().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let away = tokio::spawn(server(listener, "451 not now"));
        let delivery = Delivery::new(spool.clone(), &config(port)).expect("a delivery");
        assert!(!delivery.round().await);
        assert_eq!(waiting(&spool).expect("listed").len(), 1);
        drop((delivery, away));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        tokio::spawn(server(listener, "550 nobody"));
        let delivery = Delivery::new(spool.clone(), &config(port)).expect("a delivery");
        assert!(delivery.round().await);
        assert!(waiting(&spool).expect("listed").is_empty());
    }

    #[test]
    fn what_is_no_mail_is_told_apart() {
        let mail = parse(b"To: a@b\r\nSubject: x\r\nY: z\r\n\r\none\r\n\r\ntwo").expect("a mail");
        assert_eq!((mail.to.as_str(), mail.subject.as_str()), ("a@b", "x"));
        assert_eq!(mail.text, "one\r\n\r\ntwo");
        for bad in [
            &b""[..],
            b"To: a@b\r\n\r\n",
            b"\xff\r\n\r\n",
            b"Subject: x\r\n\r\n",
        ] {
            assert_eq!(parse(bad), None);
        }
    }
}
