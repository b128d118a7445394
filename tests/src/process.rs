//! Processes: starting, signalling, and making sure that none is left behind.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait::within_blocking;

/// A killed process is gone within this, also on a busy machine.
pub const GONE: Duration = Duration::from_secs(30);
/// How much of a log is shown when a test fails.
const TAIL_LINES: usize = 40;

/// A child of the test; killed and reaped when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
}

impl Running {
    /// Starts `command` with its output appended to `log`.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn spawn(command: &mut Command, log: &Path) -> Running {
        command.stdout(append(log)).stderr(append(log));
        Running {
            child: command
                .spawn()
                .unwrap_or_else(|error| panic!("{command:?}: {error}")),
        }
    }

    /// Takes over a child that was started in another way.
    pub fn adopt(child: Child) -> Running {
        Running { child }
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        pid_of(&self.child)
    }

    /// Sends a signal, unless it has ended.
    pub fn signal(&mut self, signal: Signal) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill(Pid::from_raw(self.pid()), signal);
        }
    }

    /// The exit status if it has ended: its code, or minus the signal.
    pub fn ended(&mut self) -> Option<i32> {
        self.child.try_wait().ok().flatten().map(status_of)
    }

    /// Waits for its end.
    pub fn wait(&mut self, deadline: Duration) -> Option<i32> {
        within_blocking(deadline, || self.ended())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How a process ended and what it printed.
#[derive(Debug)]
pub struct Ended {
    /// Exit code, or minus the signal.
    pub status: i32,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
}

/// Runs a command to its end.
///
/// # Panics
/// If it cannot be started, or has not ended after `deadline` (it is killed then).
pub fn run_to_end(mut command: Command, deadline: Duration) -> Ended {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let mut running = Running::adopt(child);
    let status = running.wait(deadline);
    drop(running);
    let (stdout, stderr) = (
        stdout.join().unwrap_or_default(),
        stderr.join().unwrap_or_default(),
    );
    let Some(status) = status else {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        panic!(
            "not ended after {deadline:?}: {command:?}\n{}\n{}",
            text(&stdout),
            text(&stderr)
        );
    };
    Ended {
        status,
        stdout,
        stderr,
    }
}

/// Reads a pipe to its end on a thread, so that neither of two pipes can fill up.
fn collect(pipe: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut bytes);
        }
        bytes
    })
}

/// Sends a signal to a process that is not our child, if it still is the `larder` process that it was.
pub fn signal(pid: i32, signal: Signal) {
    if is_alive(pid) && is_larder(pid) {
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

/// Whether a process runs, any thread of it; one that only waits to be reaped does not.
///
/// After a kill the main thread may be gone while another one still holds the sockets: looking at the process alone
/// would call it gone too early.
pub fn is_alive(pid: i32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    threads
        .map(|thread| thread.path().join("stat"))
        .any(|stat| {
            let stat = std::fs::read_to_string(stat).unwrap_or_default();
            // The state follows the name, which stands in parentheses and may hold anything.
            let state = stat
                .rsplit(')')
                .next()
                .and_then(|rest| rest.split_whitespace().next());
            !matches!(state, None | Some("Z" | "X"))
        })
}

fn is_larder(pid: i32) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| {
        let program = line.split(|byte| *byte == 0).next().unwrap_or_default();
        program.ends_with(b"larder")
    })
}

fn pid_of(child: &Child) -> i32 {
    i32::try_from(child.id()).expect("process ids are positive i32")
}

fn status_of(status: ExitStatus) -> i32 {
    status
        .code()
        .or_else(|| status.signal().map(|signal| -signal))
        .unwrap_or(-1)
}

fn append(log: &Path) -> File {
    let file = OpenOptions::new().create(true).append(true).open(log);
    file.unwrap_or_else(|error| panic!("{}: {error}", log.display()))
}

/// All files below `dir` named `log` or `*.log` that people read; the numbered ones of the storage engine are not.
pub fn logs(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let is_log = name == "log"
            || name
                .strip_suffix(".log")
                .is_some_and(|stem| stem.parse::<u64>().is_err());
        if path.is_dir() {
            found.extend(logs(&path));
        } else if is_log {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Prints the end of each log below `dir`.
pub fn print_tails(dir: &Path) {
    for log in logs(dir) {
        let text = std::fs::read(&log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        eprintln!("--- end of {} ({} lines)", log.display(), lines.len());
        for line in &lines[lines.len().saturating_sub(TAIL_LINES)..] {
            eprintln!("{line}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_and_output_of_a_command_are_told() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo out; echo err >&2; exit 7"]);
        let ended = run_to_end(command, GONE);
        assert_eq!(
            (ended.status, &ended.stdout[..], &ended.stderr[..]),
            (7, &b"out\n"[..], &b"err\n"[..])
        );
    }

    #[test]
    fn a_dropped_process_is_gone() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let running = Running::spawn(
            Command::new("sleep").arg("600"),
            &dir.path().join("sleep.log"),
        );
        let pid = running.pid();
        assert!(is_alive(pid));
        // Not a larder: must not be touched by its number alone.
        signal(pid, Signal::SIGKILL);
        assert!(is_alive(pid));
        drop(running);
        assert!(!is_alive(pid));
    }
}
