//! Promise: each line of `docs/guarantees.md` that names a test names one that exists, and what it says of clocks is so.

use std::path::Path;

use tests::repository;

const PAGE: &str = "docs/guarantees.md";

/// `path::function` between backticks.
fn named(page: &str) -> Vec<(String, String)> {
    let quoted = page.split('`').skip(1).step_by(2);
    quoted
        .filter_map(|text| text.split_once(".rs::"))
        .map(|(file, function)| (format!("{file}.rs"), function.to_owned()))
        .collect()
}

/// Whether the file has a test of this name that is not switched off.
fn is_test(file: &Path, function: &str) -> bool {
    let Ok(text) = std::fs::read_to_string(file) else {
        return false;
    };
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let declared = |line: &&str| {
        let line = line.trim_start_matches("async ");
        line.strip_prefix("fn ")
            .is_some_and(|rest| rest.starts_with(&format!("{function}(")))
    };
    let Some(at) = lines.iter().position(declared) else {
        return false;
    };
    let attributes: Vec<&str> = lines[..at]
        .iter()
        .rev()
        .take_while(|line| line.starts_with("#[") || line.starts_with("//"))
        .copied()
        .collect();
    attributes.iter().any(|line| line.contains("test"))
        && !attributes.iter().any(|line| line.starts_with("#[ignore"))
}

#[test]
fn every_guarantee_names_a_test_that_exists() {
    let page = std::fs::read_to_string(repository().join(PAGE)).expect("the page");
    let named = named(&page);
    assert!(named.len() >= 25, "{PAGE} names {} tests", named.len());
    let missing: Vec<_> = named
        .iter()
        .filter(|(file, function)| !is_test(&repository().join(file), function))
        .collect();
    assert!(missing.is_empty(), "no such tests: {missing:#?}");
}

/// A row of a table of promises that names nothing is a promise that nobody keeps.
#[test]
fn every_row_of_promises_names_a_test() {
    let page = std::fs::read_to_string(repository().join(PAGE)).expect("the page");
    let mut is_promises = false;
    let mut bare = Vec::new();
    for line in page.lines() {
        if !line.starts_with('|') {
            is_promises = false;
        } else if line.starts_with("| promise |") {
            is_promises = true;
        } else if is_promises && !line.starts_with("|---") && !line.contains(".rs::") {
            bare.push(line);
        }
    }
    assert!(bare.is_empty(), "{bare:#?}");
}

#[test]
fn a_test_that_is_not_there_is_missed() {
    let here = repository().join("tests/tests/guarantees.rs");
    assert!(is_test(&here, "a_test_that_is_not_there_is_missed"));
    assert!(!is_test(&here, "a_test_that_is_not"));
    assert!(!is_test(&here, "named"));
    assert!(!is_test(&repository().join("tests/tests/none.rs"), "a"));
}

/// Wall time is read in one place; the command line and the load generator only show it.
#[test]
fn only_the_clock_reads_wall_time() {
    let mut readers = Vec::new();
    let mut folders: Vec<_> = ["proto", "storage", "raft", "node"]
        .map(|folder| repository().join(folder))
        .into();
    let mut seen = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|kind| kind == "rs") {
                seen += 1;
                let text = std::fs::read_to_string(&path).expect("a source");
                let is_clock = path.ends_with("node/service/src/clock.rs");
                let is_tool = path.starts_with(repository().join("node/src/cli"));
                if !is_clock && !is_tool && text.contains("SystemTime::now") {
                    readers.push(path);
                }
            }
        }
    }
    assert!(seen > 100, "only {seen} sources: the walk is broken");
    assert!(readers.is_empty(), "{readers:?}");
}
