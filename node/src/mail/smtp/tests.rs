//! Delivery to a small mail server, plain and over TLS with a CA of the test's own.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use service::clock::ManualClock;
use service::ports::{Mail, Mailer as _};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::super::Spool;
use super::*;
use crate::config::{MailEncryption, Secret};

const PASSWORD: &str = "a-password-of-the-mail-server";

/// A mail server and what it answers.
#[derive(Clone)]
struct Script {
    greeting: &'static str,
    /// Besides the usual ones.
    offers: &'static [&'static str],
    to_starttls: &'static str,
    to_login: &'static str,
    /// By the beginning of the address; others are taken.
    to_recipients: &'static [(&'static str, &'static str)],
    tls: Option<TlsAcceptor>,
    is_secret_from_start: bool,
}

impl Script {
    fn plain() -> Script {
        Script {
            greeting: "220 test ESMTP",
            offers: &[],
            to_starttls: "220 go on",
            to_login: "235 welcome",
            to_recipients: &[],
            tls: None,
            is_secret_from_start: false,
        }
    }

    /// One that offers STARTTLS with the certificate of `issued`.
    fn starttls(issued: &Issued) -> Script {
        Script {
            offers: &["STARTTLS", "AUTH PLAIN LOGIN"],
            tls: Some(issued.acceptor.clone()),
            ..Script::plain()
        }
    }

    /// One that begins with TLS.
    fn tls(issued: &Issued) -> Script {
        Script {
            is_secret_from_start: true,
            ..Script::starttls(issued)
        }
    }

    /// Serves one connection, and gives what it was sent, a line `(secret)` where TLS began.
    async fn serve(self, listener: TcpListener) -> String {
        let (stream, _) = listener.accept().await.expect("a connection");
        let mut seen = String::new();
        if self.is_secret_from_start {
            self.serve_secretly(stream, true, &mut seen).await;
        } else if let Some(stream) = self.talk(stream, true, &mut seen).await {
            self.serve_secretly(stream, false, &mut seen).await;
        }
        seen
    }

    async fn serve_secretly(
        &self,
        stream: tokio::net::TcpStream,
        is_greeting: bool,
        seen: &mut String,
    ) {
        let acceptor = self.tls.as_ref().expect("a certificate");
        // Who does not believe the certificate hangs up.
        if let Ok(stream) = acceptor.accept(stream).await {
            seen.push_str("(secret)\n");
            self.talk(stream, is_greeting, seen).await;
        }
    }

    /// Talks until the end; gives the stream back for TLS.
    async fn talk<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        is_greeting: bool,
        seen: &mut String,
    ) -> Option<S> {
        let is_secret = !seen.is_empty();
        let mut stream = BufReader::new(stream);
        let mut in_data = false;
        let mut answer = is_greeting.then(|| self.greeting.to_owned());
        loop {
            if let Some(answer) = answer.take() {
                let answer = format!("{answer}\r\n");
                stream.get_mut().write_all(answer.as_bytes()).await.ok()?;
            }
            let mut line = String::new();
            if stream.read_line(&mut line).await.ok()? == 0 {
                return None;
            }
            let line = line.trim_end();
            seen.push_str(line);
            seen.push('\n');
            answer = match line {
                "." if in_data => {
                    in_data = false;
                    Some("250 taken".to_owned())
                }
                _ if in_data => None,
                "DATA" => {
                    in_data = true;
                    Some("354 go on".to_owned())
                }
                "STARTTLS" if self.to_starttls.starts_with("220") => {
                    let answer = format!("{}\r\n", self.to_starttls);
                    stream.get_mut().write_all(answer.as_bytes()).await.ok()?;
                    return Some(stream.into_inner());
                }
                "STARTTLS" => Some(self.to_starttls.to_owned()),
                "QUIT" => {
                    let _ = stream.get_mut().write_all(b"221 bye\r\n").await;
                    return None;
                }
                _ if line.starts_with("AUTH") => Some(self.to_login.to_owned()),
                _ if line.starts_with("EHLO") => Some(self.hello(is_secret)),
                _ => Some(self.to_recipient(line).to_owned()),
            };
        }
    }

    fn hello(&self, is_secret: bool) -> String {
        let offers = self
            .offers
            .iter()
            .filter(|offer| !is_secret || **offer != "STARTTLS");
        let lines: String = offers.map(|offer| format!("250-{offer}\r\n")).collect();
        format!("250-test\r\n{lines}250 8BITMIME")
    }

    fn to_recipient(&self, line: &str) -> &'static str {
        let to = line.strip_prefix("RCPT TO:<").unwrap_or_default();
        let known = self.to_recipients.iter();
        known
            .clone()
            .find(|(name, _)| to.starts_with(name))
            .map_or("250 fine", |(_, answer)| answer)
    }
}

/// A CA's certificate in a file, and a server's certificate of it.
struct Issued {
    ca: PathBuf,
    acceptor: TlsAcceptor,
}

impl Issued {
    fn new(dir: &Path, name: &str) -> Issued {
        let ca_key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&ca_key).expect("a CA");
        let ca = dir.join(format!("ca-of-{name}.pem"));
        fs::write(&ca, certificate.pem()).expect("written");
        let issuer = Issuer::new(params, ca_key);
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        let own = params.signed_by(&key, &issuer).expect("a certificate");
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).expect("a key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![own.der().clone()], key)
            .expect("a configuration");
        Issued {
            ca,
            acceptor: TlsAcceptor::from(Arc::new(config)),
        }
    }
}

/// A spool with a mail to each of `names`.
async fn spooled(names: &[&str]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("folder");
    let spool = dir.path().join("mail");
    for (at, name) in names.iter().enumerate() {
        let sender = Spool::new(spool.clone(), Arc::new(ManualClock::at(5 + at as u64)));
        let mail = Mail {
            to: format!("{name}@example.org"),
            subject: "Grüße".to_owned(),
            text: "a link\n.\nthe end".to_owned(),
        };
        sender.send(mail).await.expect("left");
    }
    (dir, spool)
}

fn config(encryption: MailEncryption, ca: &Path) -> Smtp {
    Smtp {
        host: "localhost".to_owned(),
        port: 0,
        encryption,
        ca: ca.to_owned(),
        user: String::new(),
        password: Secret::Absent,
        from: "Larder <no-reply@example.org>".to_owned(),
    }
}

fn plain() -> Smtp {
    config(MailEncryption::None, Path::new(""))
}

/// One round of delivery to a server of this kind; gives whether nothing is left, and what the server saw.
async fn round(spool: &Path, config: &Smtp, script: Script) -> (bool, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let config = Smtp {
        port: listener.local_addr().expect("an address").port(),
        ..config.clone()
    };
    let server: JoinHandle<String> = tokio::spawn(script.serve(listener));
    let delivery = Delivery::new(spool.to_owned(), &config).expect("a delivery");
    let is_done = delivery.round().await;
    (is_done, server.await.expect("the server"))
}

fn left(spool: &Path) -> usize {
    waiting(spool).expect("listed").len()
}

#[tokio::test]
async fn a_mail_leaves_the_spool_when_the_server_has_it() {
    let (_dir, spool) = spooled(&["ann", "bob"]).await;
    let (is_done, seen) = round(&spool, &plain(), Script::plain()).await;
    assert!(is_done && left(&spool) == 0);
    assert!(seen.contains("MAIL FROM:<no-reply@example.org>"), "{seen}");
    assert!(seen.contains("RCPT TO:<ann@example.org>"), "{seen}");
    // Over one connection.
    assert!(seen.contains("RCPT TO:<bob@example.org>"), "{seen}");
    // Words beyond ASCII are encoded, and a line of a single dot is none to the server.
    assert!(seen.contains("Subject: =?utf-8?"), "{seen}");
    assert!(seen.contains("a link") && seen.contains("\n..\n"), "{seen}");
}

#[tokio::test]
async fn a_refused_mail_is_dropped_and_one_that_is_put_off_stays() {
    let (_dir, spool) = spooled(&["ann"]).await;
    let refusing = |answer: &'static str| {
        let to_recipients: &[_] = match answer.starts_with('4') {
            true => &[("ann", "451 not now")],
            false => &[("ann", "550 nobody")],
        };
        Script {
            to_recipients,
            ..Script::plain()
        }
    };
    let (is_done, _) = round(&spool, &plain(), refusing("4")).await;
    assert!(!is_done && left(&spool) == 1);
    let (is_done, _) = round(&spool, &plain(), refusing("5")).await;
    assert!(is_done && left(&spool) == 0);
}

#[tokio::test]
async fn what_a_server_says_before_it_is_given_a_mail_costs_none() {
    let (dir, spool) = spooled(&["ann"]).await;
    let issued = Issued::new(dir.path(), "localhost");
    let password = dir.path().join("password");
    fs::write(&password, PASSWORD).expect("written");
    let starttls = Smtp {
        user: "larder".to_owned(),
        password: Secret::File(password),
        ..config(MailEncryption::Starttls, &issued.ca)
    };
    for script in [
        Script {
            greeting: "554 no mails from you",
            ..Script::starttls(&issued)
        },
        // A downgrade: TLS is not offered, or refused for good.
        Script {
            offers: &[],
            ..Script::starttls(&issued)
        },
        Script {
            to_starttls: "554 no TLS here",
            ..Script::starttls(&issued)
        },
        Script {
            to_login: "535 wrong password",
            ..Script::starttls(&issued)
        },
    ] {
        let (is_done, seen) = round(&spool, &starttls, script).await;
        assert!(!is_done && left(&spool) == 1, "{seen}");
        assert!(!seen.contains("MAIL FROM"), "{seen}");
        let open = seen.split("(secret)").next().unwrap_or_default();
        assert!(!open.contains("AUTH"), "{seen}");
    }
    let (is_done, seen) = round(&spool, &starttls, Script::starttls(&issued)).await;
    assert!(is_done && left(&spool) == 0);
    assert!(seen.contains("AUTH PLAIN"), "{seen}");
}

#[tokio::test]
async fn nothing_of_a_mail_is_sent_before_the_connection_is_secret() {
    for encryption in [MailEncryption::Starttls, MailEncryption::Tls] {
        let (dir, spool) = spooled(&["ann"]).await;
        let issued = Issued::new(dir.path(), "localhost");
        let script = match encryption {
            MailEncryption::Tls => Script::tls(&issued),
            _ => Script::starttls(&issued),
        };
        let (is_done, seen) = round(&spool, &config(encryption, &issued.ca), script).await;
        assert!(is_done && left(&spool) == 0, "{encryption:?}: {seen}");
        let (open, secret) = seen.split_once("(secret)\n").expect("TLS");
        let is_plain = |line: &str| line.starts_with("EHLO") || line == "STARTTLS";
        assert!(open.lines().all(is_plain), "{open}");
        assert!(secret.contains("RCPT TO:<ann@example.org>"), "{secret}");
    }
}

#[tokio::test]
async fn a_wrong_certificate_gets_no_mail_and_loses_none() {
    for encryption in [MailEncryption::Starttls, MailEncryption::Tls] {
        let (dir, spool) = spooled(&["ann"]).await;
        let right = Issued::new(dir.path(), "localhost");
        let script = |issued| match encryption {
            MailEncryption::Tls => Script::tls(issued),
            _ => Script::starttls(issued),
        };
        let other_name = Issued::new(dir.path(), "mail.example.org");
        // Of another CA, and of the right one for another name; the system's own do not count where one is named.
        for (ca, issued) in [
            (&right.ca, &other_name),
            (&other_name.ca, &right),
            (&other_name.ca, &other_name),
        ] {
            let (is_done, seen) = round(&spool, &config(encryption, ca), script(issued)).await;
            assert!(!is_done && left(&spool) == 1, "{encryption:?}: {seen}");
            assert!(!seen.contains("MAIL FROM"), "{seen}");
        }
        let (is_done, _) = round(&spool, &config(encryption, &right.ca), script(&right)).await;
        assert!(is_done && left(&spool) == 0);
    }
}

#[tokio::test]
async fn one_mail_that_is_put_off_holds_up_no_other() {
    let (_dir, spool) = spooled(&["ann", "bob"]).await;
    let script = Script {
        to_recipients: &[("ann", "452 mailbox full")],
        ..Script::plain()
    };
    // The refusal ends the connection; the other mail wants a second one.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let config = Smtp {
        port: listener.local_addr().expect("an address").port(),
        ..plain()
    };
    let servers = tokio::spawn(async move {
        for _ in 0..2 {
            let (stream, _) = listener.accept().await.expect("a connection");
            let mut seen = String::new();
            script.talk(stream, true, &mut seen).await;
        }
    });
    let delivery = Delivery::new(spool.clone(), &config).expect("a delivery");
    assert!(!delivery.round().await);
    servers.await.expect("both");
    let files = waiting(&spool).expect("listed");
    let [kept] = &files[..] else {
        panic!("{files:?}");
    };
    assert!(fs::read_to_string(kept).expect("read").contains("ann@"));
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
