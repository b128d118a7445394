//! A directory that mails are left in, one file for each: for tests, and for a mail server's own collector.
//!
//! A file is complete once it has its name (`<time>-<random>.eml`): it is written under another one, synced and renamed. It is in the
//! form of RFC 5322, and only its owner may read it, since mails hold links that let their reader in. Whoever takes a mail deletes its
//! file; with [`FILES_MAX`] of them there, no more are taken.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt as _};
use service::clock::Clock;
use service::ports::{Mail, Mailer, PortError};

/// Mails that may lie there. Nobody takes them if there are more, and a disk has an end.
const FILES_MAX: usize = 10_000;

/// The sender.
pub(crate) struct Spool {
    dir: PathBuf,
    clock: Arc<dyn Clock>,
}

impl Spool {
    /// Leaves mails in `dir`, which is made with the first one.
    pub(crate) fn new(dir: PathBuf, clock: Arc<dyn Clock>) -> Spool {
        Spool { dir, clock }
    }
}

impl Mailer for Spool {
    fn send(&self, mail: Mail) -> BoxFuture<'_, Result<(), PortError>> {
        let (dir, now_us) = (self.dir.clone(), self.clock.wall_us());
        async move {
            let write = tokio::task::spawn_blocking(move || write(&dir, now_us, &mail));
            match write.await {
                Ok(written) => {
                    written.map_err(|error| PortError(format!("the spool of mails: {error}")))
                }
                Err(error) => Err(PortError(error.to_string())),
            }
        }
        .boxed()
    }
}

/// Leaves one mail; on return it is on the disk.
fn write(dir: &Path, now_us: u64, mail: &Mail) -> io::Result<()> {
    make_private(dir)?;
    if fs::read_dir(dir)?.take(FILES_MAX).count() >= FILES_MAX {
        return Err(io::Error::other(format!(
            "{FILES_MAX} mails lie in {} and nobody takes them",
            dir.display()
        )));
    }
    let name = format!("{now_us:016}-{:08x}", rand::random::<u32>());
    let (partial, whole) = (
        dir.join(format!(".{name}.partial")),
        dir.join(format!("{name}.eml")),
    );
    let written = write_file(&partial, &render(mail, now_us)).and_then(|()| {
        fs::rename(&partial, &whole)?;
        File::open(dir)?.sync_all()
    });
    if written.is_err() {
        // Best effort: what is left of it is not a mail.
        let _ = fs::remove_file(&partial);
    }
    written
}

fn make_private(dir: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir)
}

fn write_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// The mail as a message. Header fields are one line each, whatever is in them.
fn render(mail: &Mail, now_us: u64) -> Vec<u8> {
    let line = |text: &str| text.replace(|c: char| c.is_control(), " ");
    let body = mail.text.replace("\r\n", "\n").replace('\n', "\r\n");
    format!(
        "To: {}\r\nSubject: {}\r\nX-Larder-Time-Us: {now_us}\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n{body}",
        line(&mail.to),
        line(&mail.subject),
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use service::clock::ManualClock;

    use super::*;

    fn mail() -> Mail {
        Mail {
            to: "ann@example.com\r\nBcc: all@example.com".to_owned(),
            subject: "Hello".to_owned(),
            text: "one\ntwo\n".to_owned(),
        }
    }

    #[tokio::test]
    async fn a_mail_is_a_file_of_its_own_that_only_its_owner_reads() {
        let dir = tempfile::tempdir().expect("directory");
        let spool = dir.path().join("mail");
        let sender = Spool::new(spool.clone(), Arc::new(ManualClock::at(5)));
        sender.send(mail()).await.expect("left");
        sender.send(mail()).await.expect("left");
        let files: Vec<_> = fs::read_dir(&spool)
            .expect("listed")
            .map(|file| file.expect("entry").path())
            .collect();
        assert_eq!(files.len(), 2);
        for file in files {
            assert_eq!(file.extension().and_then(|end| end.to_str()), Some("eml"));
            let text = fs::read_to_string(&file).expect("read");
            // A name cannot make header fields.
            assert!(
                text.starts_with("To: ann@example.com  Bcc: all@example.com\r\nSubject: Hello\r\n")
            );
            assert!(text.ends_with("\r\n\r\none\r\ntwo\r\n"));
            #[cfg(unix)]
            {
                use std::os::unix::fs::PermissionsExt as _;
                let mode = fs::metadata(&file).expect("there").permissions().mode();
                assert_eq!(mode & 0o077, 0);
            }
        }
    }
}
