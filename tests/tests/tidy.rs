//! Hygiene of the repository: what a reviewer would otherwise have to look for in every change.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use tests::repository;

/// A file past this usually hides a second noun.
const LINES_MAX: usize = 1_000;
/// Folders that no commit holds, by name; and `data` at the root alone.
const NOT_OURS: [&str; 5] = [".git", "target", "node_modules", "larder-data", ".cache"];
/// What people write and read; goldens and data sets are as long as they are.
const WRITTEN: [&str; 8] = ["rs", "md", "toml", "proto", "sh", "mjs", "yml", "ts"];
/// Made by tools, and read by them.
const GENERATED: [&str; 2] = ["Cargo.lock", "package-lock.json"];

/// All text files of the repository: path relative to the root, and content.
fn files() -> Vec<(PathBuf, String)> {
    let root = repository();
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder").flatten() {
            let (path, name) = (
                entry.path(),
                entry.file_name().to_string_lossy().into_owned(),
            );
            let kind = entry.file_type().expect("a file type");
            if kind.is_dir() && !NOT_OURS.contains(&name.as_str()) && path != root.join("data") {
                folders.push(path);
            } else if kind.is_file()
                && let Ok(text) = std::fs::read_to_string(&path)
            {
                found.push((
                    path.strip_prefix(&root).expect("below the root").to_owned(),
                    text,
                ));
            }
        }
    }
    assert!(
        found.len() > 100,
        "only {} files: the walk is broken",
        found.len()
    );
    found.sort();
    found
}

fn sources() -> Vec<(PathBuf, String)> {
    files()
        .into_iter()
        .filter(|(path, _)| path.extension().is_some_and(|kind| kind == "rs"))
        .collect()
}

/// Fails with every place that `wrong` finds.
fn none(what: &str, places: impl IntoIterator<Item = String>) {
    let places: Vec<String> = places.into_iter().collect();
    assert!(places.is_empty(), "{what}:\n{}", places.join("\n"));
}

/// `path:line: text` of each line that `is_bad`.
fn lines_where(files: &[(PathBuf, String)], is_bad: impl Fn(&Path, &str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in files {
        for (number, line) in (1..).zip(text.lines()) {
            if is_bad(path, line) {
                found.push(format!("{}:{number}: {}", path.display(), line.trim()));
            }
        }
    }
    found
}

/// Where the service reads stored documents, each with the reason why what is read there reaches nobody who may not see it.
const READERS: [(&str, &str); 13] = [
    ("leader/read.rs", "demands a grant"),
    ("leader/query.rs", "its walk was made of a grant"),
    ("leader/query/by_index.rs", "the same walk"),
    ("leader/query/readable.rs", "asks the grant"),
    ("leader/write.rs", "decides whether apply would refuse"),
    (
        "leader/claims.rs",
        "foresees which unique values a write takes",
    ),
    (
        "leader/unique.rs",
        "tells other nodes which document holds a value, and whether the caller may read it",
    ),
    ("leader/prepare.rs", "fits a write to what is stored"),
    (
        "leader/stale.rs",
        "says what caches may do with what was read",
    ),
    (
        "leader/rights.rs",
        "tells nodes whose sessions ended and who is in which role",
    ),
    ("leader/changes/walk.rs", "shows its judge what it finds"),
    (
        "leader/changes/judge.rs",
        "asks the rules of class and object for the caller",
    ),
    ("leader/history.rs", "asks the same judge"),
];

/// Reading stored documents past the policy must be noticed: who adds a place says here why it is safe.
#[test]
fn documents_are_read_where_the_policy_is_asked() {
    let found: BTreeSet<String> = sources()
        .into_iter()
        .filter(|(path, text)| {
            path.starts_with("node/service/src")
                && !path.components().any(|part| part.as_os_str() == "tests")
                && text.contains("tables::documents")
        })
        .filter_map(|(path, _)| {
            let path = path.strip_prefix("node/service/src").ok()?;
            Some(path.display().to_string())
        })
        // Only judges what it is given.
        .filter(|path| path != "leader/refusal.rs")
        .collect();
    let known: BTreeSet<String> = READERS.iter().map(|(path, _)| (*path).to_owned()).collect();
    assert_eq!(found, known);
}

#[test]
fn nothing_is_left_half_done() {
    // Put together, so that this file does not find itself.
    let words = [
        concat!("to", "do!("),
        concat!("unimplem", "ented!("),
        concat!("db", "g!("),
        concat!("FIX", "ME"),
        concat!("XX", "X"),
    ];
    let ours: Vec<_> = files()
        .into_iter()
        .filter(|(path, _)| !is_generated(path))
        .collect();
    none(
        "left half done",
        lines_where(&ours, |_, line| {
            words.iter().any(|word| line.contains(word))
        }),
    );
}

fn is_generated(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| GENERATED.iter().any(|generated| name == *generated))
}

#[test]
fn every_source_says_what_it_owns() {
    let silent = sources().into_iter().filter(|(path, text)| {
        let is_code = path
            .components()
            .any(|part| part.as_os_str() == "src" || part.as_os_str() == "tests");
        is_code
            && !text
                .lines()
                .next()
                .is_some_and(|line| line.starts_with("//! ") && line.len() > 15)
    });
    none(
        "no `//!` header of more than a word",
        silent.map(|(path, _)| path.display().to_string()),
    );
}

#[test]
fn no_file_hides_a_second_noun() {
    let is_written = |path: &Path| {
        path.extension()
            .is_some_and(|kind| WRITTEN.iter().any(|written| kind == *written))
    };
    let long = files()
        .into_iter()
        .filter(|(path, text)| is_written(path) && text.lines().count() > LINES_MAX);
    none(
        "too long",
        long.map(|(path, text)| format!("{}: {} lines", path.display(), text.lines().count())),
    );
}

/// The folders of the workspace's crates.
fn members() -> Vec<String> {
    let manifest = std::fs::read_to_string(repository().join("Cargo.toml")).expect("the workspace");
    let list = manifest
        .split_once("members = [")
        .and_then(|(_, rest)| rest.split_once(']'))
        .expect("members")
        .0;
    let members: Vec<String> = list
        .split('"')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect();
    assert!(
        members.contains(&"storage/document".to_owned()),
        "{members:?}"
    );
    members
}

#[test]
fn every_folder_gives_its_reasons() {
    let has_page = |member: &String| {
        ["DESIGN.md", "README.md"]
            .iter()
            .any(|page| repository().join(member).join(page).is_file())
    };
    none(
        "neither DESIGN.md nor README.md",
        members().into_iter().filter(|member| !has_page(member)),
    );
}

#[test]
fn links_between_pages_lead_somewhere() {
    let mut dead = Vec::new();
    for (path, text) in files()
        .iter()
        .filter(|(path, _)| path.extension().is_some_and(|kind| kind == "md"))
    {
        for target in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            let file = target.split('#').next().unwrap_or_default();
            let is_local =
                !target.contains("://") && !target.starts_with("mailto:") && !file.is_empty();
            let folder = path.parent().unwrap_or(Path::new(""));
            if is_local && !repository().join(folder).join(file).exists() {
                dead.push(format!("{}: {target}", path.display()));
            }
        }
    }
    none("links to nothing", dead);
}

#[test]
fn no_machine_shows_through() {
    let paths = [concat!("/wo", "rk/"), concat!("/ro", "ot/")];
    none(
        "paths of one machine",
        lines_where(&files(), |_, line| {
            paths.iter().any(|path| line.contains(path))
        }),
    );
    // Where packages are fetched from is each machine's own setting; the lock files pin versions and digests.
    let locks: Vec<_> = files()
        .into_iter()
        .filter(|(path, _)| is_generated(path))
        .collect();
    assert!(
        locks.len() >= 2,
        "the lock files are part of the repository"
    );
    let crates = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";
    let is_foreign = |_: &Path, line: &str| {
        let line = line.trim();
        line.starts_with("\"resolved\"") || (line.starts_with("source = ") && line != crates)
    };
    none("registries in lock files", lines_where(&locks, is_foreign));
}

/// Statuses are written once, beside their codes (`proto::ErrorCode`): a handler names none for an error.
#[test]
fn handlers_choose_no_error_status() {
    let success = [
        "SWITCHING_PROTOCOLS",
        "OK",
        "CREATED",
        "ACCEPTED",
        "NO_CONTENT",
        "FOUND",
        "NOT_MODIFIED",
        "PERMANENT_REDIRECT",
    ];
    let names_error = |path: &Path, line: &str| {
        let is_edge = path.starts_with("node/src") || path.starts_with("node/service/src");
        let is_mapping = path.ends_with("http/error.rs") || path.starts_with("node/src/cli");
        let code = line.trim_start();
        let is_code = !code.starts_with("//") && !code.starts_with("assert");
        is_edge
            && !is_mapping
            && is_code
            && code.split("StatusCode::").skip(1).any(|rest| {
                let name: String = rest
                    .chars()
                    .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
                    .collect();
                let is_constant =
                    name.len() > 1 && name.chars().all(|c| c.is_ascii_uppercase() || c == '_');
                (is_constant && !success.contains(&name.as_str())) || name == "from_u16"
            })
    };
    none(
        "statuses outside the error mapping",
        lines_where(&sources(), names_error),
    );
}

/// The fences that `deny.toml` checks where cargo-deny is installed, checked everywhere.
#[test]
fn fenced_crates_stay_behind_their_fence() {
    let fences: [(&str, &[&str]); 3] = [
        ("openraft", &["raft"]),
        // `tests` breaks what a stopped node stored.
        ("rocksdb", &["storage", "tests"]),
        ("hashring", &["node/cluster"]),
    ];
    let mut leaks = Vec::new();
    for member in members() {
        let manifest = std::fs::read_to_string(repository().join(&member).join("Cargo.toml"))
            .expect("a manifest");
        for (fenced, owners) in fences {
            let depends = manifest.lines().any(|line| {
                let name = line.split(['.', ' ', '=']).next().unwrap_or_default();
                name == fenced
            });
            if depends && !owners.contains(&&*member) {
                leaks.push(format!(
                    "{member} depends on {fenced}, which only {owners:?} may"
                ));
            }
        }
    }
    none("through the fence", leaks);
}

/// A sample that no test starts is a promise that nobody keeps.
#[test]
fn every_sample_configuration_is_started_by_a_test() {
    let test = include_str!("start.rs");
    let samples: BTreeSet<String> = files()
        .iter()
        .filter_map(|(path, _)| {
            path.strip_prefix("configs")
                .ok()
                .map(|path| path.display().to_string())
        })
        .filter(|path| path.ends_with(".toml"))
        .collect();
    assert!(samples.len() >= 5, "{samples:?}");
    none(
        "not in tests/tests/start.rs",
        samples
            .into_iter()
            .filter(|sample| !test.contains(&format!("\"{sample}\""))),
    );
}
