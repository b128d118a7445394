//! Files of certificates and keys: whole, for their owner alone, and not over others.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::make::Made;

/// Where they are made.
pub(super) struct Folder(PathBuf);

impl Folder {
    /// Makes the folder, for its owner alone, unless it is there.
    pub(super) fn make(dir: &Path) -> anyhow::Result<Self> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .with_context(|| format!("cannot make {}", dir.display()))?;
        Self::open(dir)
    }

    /// # Errors
    /// It is not there.
    pub(super) fn open(dir: &Path) -> anyhow::Result<Self> {
        anyhow::ensure!(
            dir.is_dir(),
            "there is no folder {}: run `larder cert create-ca` first, or name it with --dir",
            dir.display()
        );
        Ok(Self(dir.to_owned()))
    }

    /// Writes `NAME.crt` and `NAME.key`, synced; the key first, so that no certificate is ever without its key.
    ///
    /// # Errors
    /// One of them is there and `force` is not given: nothing was written. The disk failed: both may be there, or the key alone.
    pub(super) fn write(
        &self,
        name: &str,
        made: &Made,
        force: bool,
    ) -> anyhow::Result<(PathBuf, PathBuf)> {
        let at = |ending: &str| self.0.join(format!("{name}.{ending}"));
        let (certificate, key) = (at("crt"), at("key"));
        for path in [&certificate, &key] {
            anyhow::ensure!(
                force || !path.exists(),
                "{} is there already: nothing was made; --force replaces it",
                path.display()
            );
        }
        for (path, text) in [(&key, &made.key), (&certificate, &made.certificate)] {
            write(path, text, force).with_context(|| format!("cannot write {}", path.display()))?;
        }
        File::open(&self.0)
            .and_then(|dir| dir.sync_all())
            .with_context(|| format!("cannot sync {}", self.0.display()))?;
        Ok((certificate, key))
    }
}

/// Through a file beside it, so that a node which reads it meanwhile finds the old one or the new one.
fn write(path: &Path, text: &str, force: bool) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}", std::process::id()));
    let beside = PathBuf::from(beside);
    let written = (|| {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        match force {
            true => std::fs::rename(&beside, path),
            // Fails where another process was faster.
            false => std::fs::hard_link(&beside, path),
        }
    })();
    match std::fs::remove_file(&beside) {
        Err(error) if error.kind() != ErrorKind::NotFound => written.and(Err(error)),
        Ok(()) | Err(_) => written,
    }
}
