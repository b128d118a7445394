//! Where the master key of encryption at rest is: a file, a variable, or a command that prints it.
//!
//! A command is for keys that a key service gives out: `command:vault kv get -field=key secret/larder`. It runs in `/bin/sh` with the
//! node's environment, has [`COMMAND_TIME`] and [`OUTPUT_BYTES_MAX`], and its standard error is the node's.

use std::fmt;
use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde::de::{Deserializer, Error as _, IntoDeserializer as _};
use serde::{Deserialize, Serialize, Serializer};
use storage::seal::{MasterKey, MasterKeyError};
use zeroize::Zeroizing;

use super::secret::{Secret, SecretError};

const COMMAND: &str = "command:";
/// How long a command may take: the node starts after it.
const COMMAND_TIME: Duration = Duration::from_secs(10);
/// What a command may print; a key is 64 bytes.
const OUTPUT_BYTES_MAX: u64 = 4096;
/// Between two looks whether a command that has printed all has ended.
const LOOK: Duration = Duration::from_millis(5);

/// Where the key is. Holds no key, so it may be printed and compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MasterKeySource {
    /// As every secret.
    Secret(Secret),
    /// What this prints.
    Command(String),
}

/// Why there is no master key. Names where it should be, never what is there.
#[derive(Debug, thiserror::Error)]
pub enum MasterKeySourceError {
    /// It cannot be read.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// What was read is none.
    #[error("{place}: {source}")]
    Malformed {
        /// Where it was read.
        place: MasterKeySource,
        /// What a key is.
        source: MasterKeyError,
    },
    /// The command did not give it.
    #[error("the command {command:?} {what}")]
    Command {
        /// The command.
        command: String,
        /// How it failed.
        what: String,
    },
}

impl Default for MasterKeySource {
    fn default() -> Self {
        Self::Secret(Secret::Absent)
    }
}

impl MasterKeySource {
    /// Whether there is one.
    pub fn is_set(&self) -> bool {
        *self != Self::default()
    }

    /// The key as it is now. Waits for a command.
    ///
    /// # Errors
    /// [`MasterKeySourceError`].
    pub fn read(&self) -> Result<MasterKey, MasterKeySourceError> {
        let text = match self {
            Self::Secret(secret) => Zeroizing::new(secret.read()?),
            Self::Command(command) => {
                output(command, COMMAND_TIME).map_err(|what| MasterKeySourceError::Command {
                    command: command.clone(),
                    what,
                })?
            }
        };
        MasterKey::parse(&text).map_err(|source| MasterKeySourceError::Malformed {
            place: self.clone(),
            source,
        })
    }
}

/// What a command prints; the error says how it failed.
fn output(command: &str, time: Duration) -> Result<Zeroizing<String>, String> {
    let deadline = Instant::now() + time;
    let mut child = Command::new("/bin/sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // What it starts goes with it.
        .process_group(0)
        .spawn()
        .map_err(|error| format!("does not start: {error}"))?;
    let outcome = printed(&mut child, deadline);
    if outcome.is_err() {
        end(&mut child);
    }
    outcome.map_err(|what| match what {
        Failure::Late => format!("did not end within {} s", time.as_secs_f64()),
        Failure::Other(what) => what,
    })
}

enum Failure {
    Late,
    Other(String),
}

fn printed(child: &mut Child, deadline: Instant) -> Result<Zeroizing<String>, Failure> {
    let other = |what: &str| Failure::Other(what.to_owned());
    let stdout = child.stdout.take().ok_or(other("has no output"))?;
    let (sender, text) = mpsc::sync_channel(1);
    // Ends with the command, whose output closes then.
    std::thread::spawn(move || {
        let mut text = Zeroizing::new(String::with_capacity(OUTPUT_BYTES_MAX as usize + 1));
        let read = stdout.take(OUTPUT_BYTES_MAX + 1).read_to_string(&mut text);
        // Nobody waits any more: then it was late.
        let _ = sender.send(read.map(|_| text));
    });
    let left = || deadline.saturating_duration_since(Instant::now());
    let text = text
        .recv_timeout(left())
        .map_err(|_| Failure::Late)?
        .map_err(|error| Failure::Other(format!("prints what cannot be read: {}", error.kind())))?;
    if text.len() as u64 > OUTPUT_BYTES_MAX {
        return Err(other("prints more than a key"));
    }
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(text),
            Ok(Some(status)) => return Err(Failure::Other(format!("failed: {status}"))),
            Ok(None) if left().is_zero() => return Err(Failure::Late),
            Ok(None) => std::thread::sleep(LOOK),
            Err(error) => return Err(Failure::Other(error.to_string())),
        }
    }
}

/// Kills the command with all that it started.
fn end(child: &mut Child) {
    if let Ok(group) = i32::try_from(child.id()) {
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
    let _ = child.wait();
}

impl std::str::FromStr for MasterKeySource {
    type Err = serde::de::value::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::deserialize(text.into_deserializer())
    }
}

impl fmt::Display for MasterKeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Secret(secret) => secret.fmt(f),
            Self::Command(command) => write!(f, "{COMMAND}{command}"),
        }
    }
}

impl Serialize for MasterKeySource {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MasterKeySource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let refused = || {
            D::Error::custom(
                "a master key is not written here (its value is not repeated): give file:PATH, env:NAME or command:COMMAND",
            )
        };
        let text = String::deserialize(deserializer).map_err(|_| refused())?;
        match text.strip_prefix(COMMAND) {
            Some(command) if !command.trim().is_empty() => Ok(Self::Command(command.to_owned())),
            Some(_) => Err(refused()),
            None => {
                let plain: serde::de::value::StringDeserializer<D::Error> =
                    text.into_deserializer();
                Secret::deserialize(plain)
                    .map(Self::Secret)
                    .map_err(|_| refused())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    fn source(text: &str) -> MasterKeySource {
        text.parse().unwrap()
    }

    #[test]
    fn keys_come_from_files_and_commands() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("master.key");
        std::fs::write(&path, format!("{KEY}\n")).unwrap();
        let file = format!("file:{}", path.display());
        for text in [
            file.clone(),
            format!("command:echo {KEY}"),
            format!("command:cat {}", path.display()),
        ] {
            source(&text).read().unwrap();
            assert_eq!(source(&text).to_string(), text);
        }
        assert!(!source("").is_set() && source(&file).is_set());
        std::fs::write(&path, "hunter2").unwrap();
        let error = source(&file).read().unwrap_err().to_string();
        assert!(
            error.contains("master.key") && !error.contains("hunter2"),
            "{error}"
        );
    }

    #[test]
    fn what_is_no_reference_is_refused_and_not_repeated() {
        for text in [KEY, "hunter2", "command:", "command: ", "file:"] {
            let error = text.parse::<MasterKeySource>().unwrap_err().to_string();
            assert!(error.contains("command:COMMAND"), "{error}");
            assert!(
                !error.contains(KEY) && !error.contains("hunter2"),
                "{error}"
            );
        }
    }

    #[test]
    fn commands_that_fail_hang_or_babble_are_named() {
        let fails = |command: &str| {
            let error = source(&format!("command:{command}")).read().unwrap_err();
            let error = error.to_string();
            assert!(error.contains(command), "{error}");
            error
        };
        assert!(fails("exit 3").contains("exit status: 3"));
        assert!(fails("cat /dev/zero").contains("more than a key"));
        assert!(fails("echo short").contains("openssl rand"));
        let hangs = output("sleep 600 & sleep 600", Duration::from_millis(50));
        assert!(hangs.unwrap_err().contains("did not end within"));
        let hangs = output("exec >&-; sleep 600", Duration::from_millis(50));
        assert!(hangs.unwrap_err().contains("did not end within"));
    }
}
