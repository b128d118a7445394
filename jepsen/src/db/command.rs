//! Commands of the system, run to their end.

use std::process::Command;

use anyhow::{Context as _, ensure};

/// Runs `line`, words apart by spaces, and gives what it printed.
///
/// # Errors
/// If it cannot be run, or ends with another status than 0; with what it said.
pub(super) fn system(line: &str) -> anyhow::Result<String> {
    let mut words = line.split_whitespace();
    let program = words.next().context("an empty command")?;
    let output = Command::new(program)
        .args(words)
        .output()
        .with_context(|| line.to_owned())?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{line}: {}", said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
