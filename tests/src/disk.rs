//! A disk of one's own for a node: ext4 in a file, which can be cut off as a power failure would, filled up, and mounted again.
//!
//! Needs the right to mount. Where that is missing [`Disk::new`] gives nothing, after saying so, and the test has nothing to show.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::ioctl::{Opcode, Setter, ioctl, opcode};
use tempfile::TempDir;

use crate::wait::within_blocking;

/// `EXT4_IOC_SHUTDOWN`.
const SHUTDOWN: Opcode = opcode::read::<u32>(b'X', 125);
/// Its argument: nothing that waits in memory is written any more, the journal neither.
const NO_LOG_FLUSH: u32 = 2;
/// What a ballast file is written in.
const CHUNK: usize = 64 << 10;

/// A mounted file system; unmounted and removed when dropped.
pub struct Disk {
    dir: TempDir,
}

impl Disk {
    /// A fresh disk of so many MiB, or `None` where mounting is not allowed.
    ///
    /// # Panics
    /// If the image cannot be made.
    pub fn new(mib: u64) -> Option<Disk> {
        let dir = TempDir::with_prefix("larder-disk-").expect("temporary folder");
        let disk = Disk { dir };
        let image = File::create(disk.image()).expect("image");
        image.set_len(mib << 20).expect("image");
        std::fs::create_dir(disk.path()).expect("mount point");
        let made = Command::new("mkfs.ext4")
            .args(["-q", "-F", "-m", "0"])
            .arg(disk.image())
            .output();
        let mounted = match made {
            Ok(made) if made.status.success() => disk.try_mount(),
            Ok(made) => Err(String::from_utf8_lossy(&made.stderr).into_owned()),
            Err(error) => Err(format!("mkfs.ext4: {error}")),
        };
        match mounted {
            Ok(()) => Some(disk),
            Err(error) => {
                eprintln!(
                    "SKIPPED: no loop-mounted file system can be made here: {}",
                    error.trim()
                );
                None
            }
        }
    }

    /// As [`Disk::new`], several at once.
    pub fn some(count: usize, mib: u64) -> Option<Vec<Disk>> {
        (0..count).map(|_| Disk::new(mib)).collect()
    }

    fn image(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("disk")
    }

    /// Cuts the disk off at this moment: what was not synced is gone, and every later access fails.
    ///
    /// # Panics
    /// If the kernel refuses.
    #[allow(unsafe_code)]
    pub fn cut(&self) {
        let root = File::open(self.path()).expect("mounted");
        // SAFETY: the opcode is the kernel's for this call, which reads one u32 from the pointer that `Setter` passes, and no more.
        let cut = unsafe { ioctl(&root, Setter::<SHUTDOWN, u32>::new(NO_LOG_FLUSH)) };
        cut.expect("the file system is shut down");
    }

    /// Mounts it again, as after a power failure. Nobody may have files open on it.
    ///
    /// # Panics
    /// If that fails.
    pub fn remount(&self) {
        self.unmount();
        if let Err(error) = self.try_mount() {
            panic!("not mounted again: {error}");
        }
    }

    /// Fills it with a file of its own until so many bytes are left.
    ///
    /// # Panics
    /// If it cannot be written for another reason than that it is full.
    pub fn fill(&self, leave: u64) {
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(self.path().join("ballast"))
            .expect("ballast");
        let chunk = vec![0x5a; CHUNK];
        while self.free() > leave {
            let wanted = usize::try_from(self.free() - leave)
                .unwrap_or(CHUNK)
                .min(CHUNK);
            match file.write_all(&chunk[..wanted]) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return,
                Err(error) => panic!("ballast: {error}"),
            }
            // Blocks are only taken when they are written out.
            file.sync_data()
                .or_else(|error| match error.kind() {
                    std::io::ErrorKind::StorageFull => Ok(()),
                    _ => Err(error),
                })
                .expect("ballast");
        }
    }

    /// Removes what [`Disk::fill`] wrote.
    ///
    /// # Panics
    /// If there is nothing.
    pub fn free_up(&self) {
        std::fs::remove_file(self.path().join("ballast")).expect("ballast");
    }

    /// Free bytes.
    ///
    /// # Panics
    /// If it is not mounted.
    pub fn free(&self) -> u64 {
        let stat = rustix::fs::statvfs(self.path()).expect("mounted");
        stat.f_bavail * stat.f_frsize
    }

    fn try_mount(&self) -> Result<(), String> {
        let mut mount = Command::new("mount");
        mount
            .args(["-o", "loop"])
            .arg(self.image())
            .arg(self.path());
        run(&mut mount)
    }

    fn unmount(&self) {
        let path = self.path();
        let unmounted = within_blocking(crate::process::GONE, || {
            run(Command::new("umount").arg(&path)).ok()
        });
        assert!(unmounted.is_some(), "{} is still in use", path.display());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a test that fails may still have processes on it.
        let _ = run(Command::new("umount").arg("-l").arg(self.path()));
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        Err(error) => Err(format!("{command:?}: {error}")),
    }
}

/// The largest file below `dir` whose name ends with `suffix`.
///
/// # Panics
/// If there is none.
pub fn largest(dir: &Path, suffix: &str) -> PathBuf {
    let files = std::fs::read_dir(dir).expect("a folder").flatten();
    let files = files.map(|file| file.path());
    let matching = files.filter(|path| path.to_string_lossy().ends_with(suffix));
    let size = |path: &PathBuf| path.metadata().map_or(0, |metadata| metadata.len());
    matching
        .max_by_key(size)
        .unwrap_or_else(|| panic!("no *{suffix} in {}", dir.display()))
}

/// Turns some bits in the middle of a file.
///
/// # Panics
/// If it cannot be written.
pub fn rot(path: &Path) {
    let mut bytes = std::fs::read(path).expect("a file");
    let at = bytes.len() / 3;
    bytes[at..at + 8].iter_mut().for_each(|byte| *byte ^= 0xff);
    std::fs::write(path, bytes).expect("written");
}
