//! `larder man`: the manual pages, made from the same definitions as the help texts.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;

/// Writes the manual pages, one for each command
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:\n  larder man --dir ~/.local/share/man/man1\n  man larder-import")]
pub struct Man {
    /// Where to write them; made if it is missing
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
}

/// Runs `larder man` for the tree of `command`.
pub(crate) fn run(man: &Man, command: clap::Command) -> anyhow::Result<()> {
    write(&man.dir, command)
        .with_context(|| format!("cannot write manual pages to {}", man.dir.display()))
}

/// `larder.1`, and `larder-VERB.1` for each verb below it.
fn write(dir: &Path, command: clap::Command) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    clap_mangen::generate_to(command, dir)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::CommandFactory as _;

    use super::*;
    use crate::cli::Cli;

    /// The pages that the tree must have.
    fn pages(command: &clap::Command, name: &str, out: &mut BTreeSet<String>) {
        out.insert(format!("{name}.1"));
        for verb in command.get_subcommands() {
            pages(verb, &format!("{name}-{}", verb.get_name()), out);
        }
    }

    #[test]
    fn every_command_has_its_page() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("share/man1");
        write(&below, Cli::command()).unwrap();
        let mut expected = BTreeSet::new();
        pages(&Cli::command(), "larder", &mut expected);
        assert!(expected.contains("larder-doc-put.1") && expected.contains("larder-man.1"));
        let mut found = BTreeSet::new();
        for entry in std::fs::read_dir(&below).unwrap() {
            let entry = entry.unwrap();
            let text = std::fs::read_to_string(entry.path()).unwrap();
            for section in [".SH NAME", ".SH SYNOPSIS", ".SH DESCRIPTION"] {
                assert!(text.contains(section), "{:?} lacks {section}", entry.path());
            }
            found.insert(entry.file_name().into_string().unwrap());
        }
        assert_eq!(found, expected);
        let import = std::fs::read_to_string(below.join("larder-import.1")).unwrap();
        assert!(
            import.contains("skip\\-bad") && import.contains("movies.json"),
            "{import}"
        );
    }
}
