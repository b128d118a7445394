//! CPU time, memory and disk writes of processes on this machine, from `/proc`.

use std::time::Duration;

/// Ticks of `/proc` per second: fixed by the kernel's interface to programs.
const TICKS_PER_SECOND: u64 = 100;

/// User and system time of a process so far; `None`: it is gone.
pub(super) fn cpu(pid: u32) -> Option<Duration> {
    parse_cpu(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Bytes that a process caused to be written to disks so far; `None`: it is gone, or it is another user's.
pub(super) fn written(pid: u32) -> Option<u64> {
    parse_written(&std::fs::read_to_string(format!("/proc/{pid}/io")).ok()?)
}

/// Resident memory in bytes: now and at its peak.
pub(super) fn memory(pid: u32) -> Option<(u64, u64)> {
    parse_memory(&std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
}

fn parse_cpu(stat: &str) -> Option<Duration> {
    // The second field is the command in brackets, which may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(Duration::from_millis(
        (user + system) * (1000 / TICKS_PER_SECOND),
    ))
}

fn parse_written(io: &str) -> Option<u64> {
    let line = io
        .lines()
        .find_map(|line| line.strip_prefix("write_bytes:"))?;
    line.trim().parse().ok()
}

fn parse_memory(status: &str) -> Option<(u64, u64)> {
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    };
    Some((kib("VmRSS:")? * 1024, kib("VmHWM:")? * 1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_may_hold_brackets_and_blanks() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194304 1 0 0 0 150 50 0 0 20 0 1 0 1 1 1";
        assert_eq!(parse_cpu(stat), Some(Duration::from_secs(2)));
    }

    #[test]
    fn cancelled_writes_are_not_written_ones() {
        let io = "wchar: 9\nread_bytes: 1\nwrite_bytes: 4096\ncancelled_write_bytes: 7\n";
        assert_eq!(parse_written(io), Some(4096));
    }

    #[test]
    fn memory_is_in_bytes() {
        assert_eq!(
            parse_memory("Name:\tx\nVmHWM:\t   20 kB\nVmRSS:\t   10 kB\n"),
            Some((10_240, 20_480))
        );
    }
}
