//! Exit statuses of `larder`, and errors that carry one.

use std::fmt;

/// What the exit status of the process says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// Done.
    Ok = 0,
    /// Refused or failed; the message says why.
    Error = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// Nobody answered, or the node or cluster cannot serve now: nothing happened, try again.
    Unavailable = 3,
    /// `cluster status`: every shard serves, but a replica is missing.
    Degraded = 4,
    /// `cluster status`: some shard has no quorum.
    NoQuorum = 5,
    /// `data verify`: something is damaged.
    Damaged = 6,
    /// `start`: the disk of the Raft logs failed or is full.
    LogFailed = 70,
    /// `start`: the disk of the data failed or is full.
    DataFailed = 71,
    /// `start`: the data directory is damaged where the node cannot repair it; the message names the place and the way out.
    DataDamaged = 72,
    /// `start`: the configuration cannot be used.
    Config = 78,
}

/// An error with the exit status it asks for.
#[derive(Debug)]
pub struct Exit {
    /// The status.
    pub status: Status,
    /// What is printed on standard error. Empty: nothing, the command has said everything.
    pub message: String,
}

impl Exit {
    /// An error that ends the process with `status` and `message`.
    pub fn new(status: Status, message: impl fmt::Display) -> Self {
        Self {
            status,
            message: message.to_string(),
        }
    }

    /// Ends the process with `status`; the output has said why.
    pub fn silent(status: Status) -> Self {
        Self {
            status,
            message: String::new(),
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Exit {}

/// The status an error asks for, and the message to print, if any.
pub(crate) fn classify(error: &anyhow::Error) -> (Status, Option<String>) {
    let status = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<Exit>())
        .map_or(Status::Error, |exit| exit.status);
    let mut parts: Vec<String> = error
        .chain()
        .map(ToString::to_string)
        .filter(|part| !part.is_empty())
        .collect();
    // Many errors repeat their source in their own text.
    parts.dedup_by(|later, earlier| earlier.contains(later.as_str()));
    let message = parts.join(": ");
    (status, (!message.is_empty()).then_some(message))
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn the_status_is_found_below_added_context() {
        let error = Err::<(), _>(Exit::new(Status::Unavailable, "connection refused"))
            .context("http://127.0.0.1:7400")
            .unwrap_err();
        assert_eq!(
            classify(&error),
            (
                Status::Unavailable,
                Some("http://127.0.0.1:7400: connection refused".to_owned())
            )
        );
        assert_eq!(
            classify(&Exit::silent(Status::Degraded).into()),
            (Status::Degraded, None)
        );
        assert_eq!(
            classify(&anyhow::anyhow!("odd")),
            (Status::Error, Some("odd".to_owned()))
        );
    }
}
