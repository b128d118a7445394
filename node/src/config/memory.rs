//! How much memory storage takes where the configuration does not say it.
//!
//! A node in a small control group would otherwise be killed under load instead of refusing: the default budget is made for machines.

use std::path::{Path, PathBuf};

/// MiB of the budget where nothing bounds the process closer.
pub(super) const DEFAULT_MIB: usize = 192;
/// The budget's share of what the process may take: beside it are connections, requests at work and compactions.
const SHARE: u64 = 4;

/// The default of `storage.memory_mib`: a quarter of what the process's control group allows, [`DEFAULT_MIB`] at most, and `floor_mib` at
/// least.
pub(super) fn default_mib(floor_mib: usize) -> usize {
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limit = limit_bytes(&groups, Path::new("/sys/fs/cgroup"));
    share_mib(limit).clamp(floor_mib, DEFAULT_MIB)
}

fn share_mib(limit_bytes: Option<u64>) -> usize {
    limit_bytes.map_or(DEFAULT_MIB, |bytes| {
        usize::try_from((bytes / SHARE) >> 20).unwrap_or(usize::MAX)
    })
}

/// The smallest limit of the process's memory groups and all above them; `groups` as in `/proc/self/cgroup`.
fn limit_bytes(groups: &str, mount: &Path) -> Option<u64> {
    groups
        .lines()
        .filter_map(|line| {
            // number:controllers:path; version 2 has one line with no controllers.
            let mut parts = line.splitn(3, ':');
            let (controllers, path) = (parts.nth(1)?, parts.next()?);
            let path = path.trim_start_matches('/');
            if controllers.is_empty() {
                smallest(mount, path, "memory.max")
            } else if controllers.split(',').any(|name| name == "memory") {
                smallest(&mount.join("memory"), path, "memory.limit_in_bytes")
            } else {
                None
            }
        })
        .min()
}

/// The smallest number in the files `name` of a folder below `root` and of those above it.
fn smallest(root: &Path, path: &str, name: &str) -> Option<u64> {
    let mut folder: PathBuf = root.join(path);
    let mut found: Option<u64> = None;
    loop {
        let limit = std::fs::read_to_string(folder.join(name)).ok();
        // `max` is no number, and means none.
        let limit = limit.and_then(|text| text.trim().parse().ok());
        found = match (found, limit) {
            (Some(one), Some(two)) => Some(u64::min(one, two)),
            (one, two) => one.or(two),
        };
        if folder == root || !folder.pop() {
            return found;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let file = root.join(path);
        std::fs::create_dir_all(file.parent().expect("a folder")).expect("made");
        std::fs::write(file, text).expect("written");
    }

    #[test]
    fn the_smallest_limit_above_the_process_counts() {
        let mount = tempfile::tempdir().expect("a folder");
        let root = mount.path();
        write(root, "a/memory.max", "536870912\n");
        write(root, "a/b/memory.max", "max\n");
        assert_eq!(limit_bytes("0::/a/b\n", root), Some(512 << 20));
        write(root, "a/b/memory.max", "268435456\n");
        assert_eq!(limit_bytes("0::/a/b\n", root), Some(256 << 20));
        // A path that is not there: the process sees its own part of the tree as the whole.
        write(root, "memory.max", "1073741824\n");
        assert_eq!(limit_bytes("0::/elsewhere/x\n", root), Some(1 << 30));
    }

    #[test]
    fn groups_of_version_one_have_a_tree_for_memory() {
        let mount = tempfile::tempdir().expect("a folder");
        let root = mount.path();
        let groups = "9:name=systemd:/\n4:cpu,memory:/node\n0::/\n";
        assert_eq!(limit_bytes(groups, root), None);
        write(root, "memory/node/memory.limit_in_bytes", "536870912");
        write(root, "memory/memory.limit_in_bytes", "9223372036854771712");
        assert_eq!(limit_bytes(groups, root), Some(512 << 20));
        assert_eq!(share_mib(limit_bytes(groups, root)), 128);
        assert_eq!(share_mib(None), DEFAULT_MIB);
    }
}
