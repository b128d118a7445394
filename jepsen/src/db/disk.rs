//! A disk that can lose power: ext4 in a file, loop-mounted as a node's data folder.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rustix::ioctl::{Opcode, Setter, ioctl, opcode};

use super::command::system;

/// The file has holes, so that an empty disk takes no room.
const BYTES: u64 = 4 << 30;
/// `EXT4_IOC_SHUTDOWN`.
const SHUTDOWN: Opcode = opcode::read::<u32>(b'X', 125);
/// Its argument: what waits in memory is never written, the journal neither.
const WITHOUT_LOG: u32 = 2;

/// A mounted disk; unmounted when dropped.
pub(super) struct Disk {
    image: PathBuf,
    path: PathBuf,
}

impl Disk {
    /// A fresh disk at `path`, its bytes beside it.
    ///
    /// # Errors
    /// If it cannot be made or mounted, which needs root.
    pub(super) fn make(path: &Path) -> anyhow::Result<Disk> {
        let image = path.with_extension("img");
        File::create(&image)?.set_len(BYTES)?;
        std::fs::create_dir_all(path)?;
        system(&format!("mkfs.ext4 -q -F -m 0 {}", image.display()))?;
        let disk = Disk {
            image,
            path: path.to_owned(),
        };
        disk.mount()?;
        Ok(disk)
    }

    fn mount(&self) -> anyhow::Result<()> {
        system(&format!(
            "mount -o loop {} {}",
            self.image.display(),
            self.path.display()
        ))
        .map(|_| ())
    }

    /// Nothing that was not synced will be there after [`Disk::restore`]; every access fails from now on.
    ///
    /// # Errors
    /// If the kernel refuses.
    #[allow(unsafe_code)]
    pub(super) fn cut(&self) -> anyhow::Result<()> {
        let root = File::open(&self.path)?;
        // SAFETY: the kernel's call of this number reads one u32 at the pointer that `Setter` passes, and nothing else.
        unsafe { ioctl(&root, Setter::<SHUTDOWN, u32>::new(WITHOUT_LOG)) }
            .context("shutting a file system down")
    }

    /// Mounts it again. Nobody may have files open on it.
    ///
    /// # Errors
    /// If that fails.
    pub(super) fn restore(&self) -> anyhow::Result<()> {
        system(&format!("umount {}", self.path.display()))?;
        self.mount()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = system(&format!("umount -l {}", self.path.display()));
        let _ = std::fs::remove_file(&self.image);
    }
}
