//! The `larder` binary: where it is, and running its short-lived verbs.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::process::{Ended, run_to_end};

/// No verb that the tests run to its end takes longer, also on a busy machine.
const VERB_DEADLINE: Duration = Duration::from_secs(60);

/// The binary under test: `LARDER_BIN`, else the one beside the test's own target folder.
///
/// # Panics
/// If there is none, with the way to make one.
pub fn larder() -> PathBuf {
    let path = match std::env::var_os("LARDER_BIN") {
        Some(path) => PathBuf::from(path),
        None => beside_the_test(),
    };
    assert!(
        path.is_file(),
        "no larder binary at {}: run `cargo build -p larder` or set LARDER_BIN",
        path.display()
    );
    path
}

/// `target/debug/deps/test-hash` lies beside `target/debug/larder`.
fn beside_the_test() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    let profile = test
        .parent()
        .and_then(Path::parent)
        .expect("tests lie in target/<profile>/deps");
    profile.join("larder")
}

/// A command of the binary without the environment variables that steer it. `LARDER_TEST_LOG` filters what its nodes log.
pub fn command() -> Command {
    let mut command = Command::new(larder());
    for (name, _) in std::env::vars() {
        if name.starts_with("LARDER_") {
            command.env_remove(name);
        }
    }
    if let Some(filter) = std::env::var_os("LARDER_TEST_LOG") {
        command.env("LARDER_TELEMETRY__LOG", filter);
    }
    command.stdin(Stdio::null());
    command
}

/// What a verb printed and how it ended.
#[derive(Debug)]
pub struct Output {
    /// Exit status; negative: minus the signal that ended it.
    pub status: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Standard output as JSON.
    ///
    /// # Panics
    /// If it is not one JSON value.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {self:?}"))
    }

    /// Asserts the exit status.
    ///
    /// # Panics
    /// If it is another one, with all that was printed.
    #[track_caller]
    pub fn expect(self, status: i32) -> Output {
        assert_eq!(self.status, status, "{self:#?}");
        self
    }
}

impl From<Ended> for Output {
    fn from(ended: Ended) -> Output {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Output {
            status: ended.status,
            stdout: text(ended.stdout),
            stderr: text(ended.stderr),
        }
    }
}

/// Runs a verb to its end, off the async thread.
///
/// # Panics
/// If it has not ended after a minute.
pub async fn run<I, A>(arguments: I) -> Output
where
    I: IntoIterator<Item = A>,
    A: AsRef<OsStr>,
{
    let mut command = command();
    command.args(arguments);
    run_command(command, VERB_DEADLINE).await
}

/// Runs a prepared command to its end, off the async thread.
///
/// # Panics
/// If it has not ended after `deadline`.
pub async fn run_command(command: Command, deadline: Duration) -> Output {
    tokio::task::spawn_blocking(move || run_to_end(command, deadline))
        .await
        .expect("no panic")
        .into()
}
