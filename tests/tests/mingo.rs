//! Promise: filters match what MongoDB's do, by another implementation than ours, the npm package `mingo`.
//!
//! Random documents and filters, the same as in the tests of the crate `document`, are answered here and then by mingo. What the two are
//! known to disagree about is listed in `tests/mingo/differences.mjs`, with who is right.

#[path = "../../storage/document/tests/query_model/cases.rs"]
#[expect(dead_code, reason = "orders are compared without it")]
mod cases;
#[path = "../../storage/document/tests/query_model/model.rs"]
#[expect(dead_code, reason = "mingo takes the place of the model")]
mod model;

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use document::acl::Principal;
use document::body;
use document::query::{Filter, Limits, Subject};
use document::schema::{Layout, Schema};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use serde_json::{Value as Json, json};
use tests::{npm, process};

const DOCUMENTS: usize = 100;
const FILTERS: usize = 1_000;
const SOAK_FACTOR: usize = 20;

#[test]
fn mingo_matches_the_same_documents() {
    let factor = if std::env::var_os("LARDER_SOAK").is_some() {
        SOAK_FACTOR
    } else {
        1
    };
    let changes = Schema::parse_changes(cases::SCHEMA.as_bytes()).expect("a schema");
    let schema = Schema::system()
        .merge(&changes, &Principal::root())
        .expect("a schema");
    let layout = Arc::new(schema.layout("Thing").expect("a class"));
    // The same cases in every run: what differs is to be listed, not to come and go.
    let mut runner = TestRunner::deterministic();
    let documents: Vec<Json> = (0..DOCUMENTS)
        .map(|_| {
            cases::document()
                .new_tree(&mut runner)
                .expect("a document")
                .current()
                .to_json()
        })
        .collect();
    let stored: Vec<Vec<u8>> = documents
        .iter()
        .map(|document| {
            let limits = body::Limits::default();
            let text = document.to_string();
            body::parse(text.as_bytes(), &layout, &schema, &limits)
                .expect("valid")
                .fields
        })
        .collect();
    // One operator each, so that a difference has one cause. How conditions are joined is the model's to judge.
    let strategy = cases::filter();
    let questions: Vec<Json> = std::iter::repeat_with(|| strategy.new_tree(&mut runner))
        .map(|tree| tree.expect("a filter").current())
        .filter(
            |filter| matches!(filter, model::Filter::Field(_, operators) if operators.len() == 1),
        )
        .take(FILTERS * factor)
        .map(|filter| {
            let filter = filter.to_json();
            let matched = matches(&filter, &layout, &stored);
            json!({ "filter": filter, "matched": matched })
        })
        .collect();
    let some = questions.iter().filter(|question| {
        let matched = question["matched"].as_array().map_or(0, Vec::len);
        0 < matched && matched < DOCUMENTS
    });
    assert!(
        some.count() > FILTERS / 4,
        "most filters tell nothing apart"
    );

    let file = tempfile::NamedTempFile::new().expect("a file");
    let cases = json!({ "documents": documents, "questions": questions });
    std::fs::write(file.path(), cases.to_string()).expect("written");
    let mut node = Command::new("node");
    node.arg("compare.mjs")
        .arg(file.path())
        .current_dir(npm::installed("mingo"))
        .stdin(Stdio::null());
    let ended = process::run_to_end(node, Duration::from_secs(120 * factor as u64));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&ended.stdout), text(&ended.stderr));
    assert_eq!(ended.status, 0, "{out}\n{err}");
    // A run that compared nothing would end with 0 as well.
    let compared = format!("compared {}", DOCUMENTS * FILTERS * factor);
    assert!(out.contains(&compared), "{out}");
}

/// The places of the documents that match.
fn matches(filter: &Json, layout: &Arc<Layout>, stored: &[Vec<u8>]) -> Vec<usize> {
    let text = filter.to_string();
    let filter = Filter::parse(text.as_bytes(), layout, &Limits::default()).expect(&text);
    let is_match = |fields| {
        filter.matches(&Subject {
            id: "/db/Thing/1",
            version: 1,
            created_us: 0,
            updated_us: 0,
            fields,
        })
    };
    (0..stored.len())
        .filter(|&at| is_match(&stored[at]))
        .collect()
}
