//! Texts that strangers send: filters, updates, schemas and documents, as in the corpus (`tests/corpus`), changed in a few places, and made up.
//!
//! Whatever the text is, reading it ends with an answer; and what was read and is written down is read again as the same.
//! `PROPTEST_CASES` says how many are tried.

use std::path::Path;
use std::sync::Arc;

use document::acl::Principal;
use document::body::{self, Limits as BodyLimits};
use document::query::{Filter, Limits, Sort, Subject};
use document::schema::{Layout, Schema};
use document::update;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::TestRunner;
use serde_json::value::RawValue;

/// Texts of one kind that are tried, beside the corpus.
const CASES: u32 = 2_000;

/// What is put in the place of a part of a text.
const PARTS: [&str; 40] = [
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\\",
    "",
    "{}",
    "[]",
    "null",
    "true",
    "0",
    "-1",
    "1e9",
    "1e999",
    "9223372036854775808",
    "\"a\"",
    "\"n\"",
    "\"tags\"",
    "\"map\"",
    "\"day\"",
    "\"json\"",
    "\"json.n.0\"",
    "\"id\"",
    "\"$and\"",
    "\"$or\"",
    "\"$not\"",
    "\"$in\"",
    "\"$elemMatch\"",
    "\"$regex\"",
    "\"$inc\"",
    "\"$push\"",
    "\"$set\"",
    "\"1970-01-01\"",
    "\"/db/Thing\"",
    "\"/db/collection.List[/db/Thing]\"",
    "\\ud800",
    "ä",
];

const CLASS: &str = r#"[{"class":"/db/Thing","fields":{
    "n":{"name":"n","type":"/db/Integer"},
    "day":{"name":"day","type":"/db/Date"},
    "tags":{"name":"tags","type":"/db/collection.List[/db/String]"},
    "map":{"name":"map","type":"/db/collection.Map[/db/String,/db/DateTime]"},
    "place":{"name":"place","type":"/db/GeoPoint"},
    "json":{"name":"json","type":"/db/JsonObject"}}}]"#;

/// Hands the texts of a corpus to `each`, as they are and changed.
fn for_texts(corpus: &str, each: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let files = std::fs::read_dir(folder.join(corpus)).expect("a corpus");
    let texts: Vec<String> = files
        .map(|file| std::fs::read_to_string(file.expect("a file").path()).expect("a text"))
        .collect();
    assert!(!texts.is_empty());
    texts.iter().for_each(|text| each(text.as_bytes()));
    // A place, how much is cut out there, and what is put in.
    let change = (any::<Index>(), 0..12_usize, select(PARTS.to_vec()));
    let changed = (select(texts), prop::collection::vec(change, 1..6));
    let made_up = prop::collection::vec(select(PARTS.to_vec()), 0..24);
    let config = ProptestConfig::with_cases(CASES);
    let run = TestRunner::new(config).run(&(changed, made_up), |((text, changes), made_up)| {
        let mut characters: Vec<char> = text.chars().collect();
        for (at, length, part) in changes {
            let at = at.index(characters.len() + 1);
            let end = (at + length).min(characters.len());
            characters.splice(at..end, part.chars());
        }
        let changed: String = characters.into_iter().collect();
        each(changed.as_bytes());
        each(made_up.concat().as_bytes());
        Ok(())
    });
    run.unwrap_or_else(|failure| panic!("{failure}"));
}

fn schema() -> (Schema, Arc<Layout>) {
    let changes = Schema::parse_changes(CLASS.as_bytes()).expect("descriptors");
    let schema = Schema::system().merge(&changes, &Principal::root());
    let schema = schema.expect("a schema");
    let layout = Arc::new(schema.layout("Thing").expect("the class"));
    (schema, layout)
}

fn subject(fields: &[u8]) -> Subject<'_> {
    Subject {
        id: "/db/Thing/1",
        version: 1,
        created_us: 0,
        updated_us: 0,
        fields,
    }
}

const FIELDS: &[u8] = br#""n":7,"day":"1970-01-01","tags":["a","b"],"map":null,"place":null,"json":{"n":[1,{"n":null}]}"#;

#[test]
fn filters_and_orders() {
    let ((_, layout), limits) = (schema(), Limits::default());
    for_texts("filter", |text: &[u8]| {
        if let Ok(filter) = Filter::parse(text, &layout, &limits) {
            let canonical = filter.canonical();
            let again =
                Filter::parse(canonical.as_bytes(), &layout, &limits).expect("our own form");
            assert_eq!(again.canonical(), canonical);
            let is_match = filter.matches(&subject(FIELDS));
            assert_eq!(is_match, again.matches(&subject(FIELDS)));
        }
        if let Ok(sort) = Sort::parse(text, &layout, &limits) {
            let key = sort.key(&subject(FIELDS));
            let again = Sort::parse(sort.canonical().as_bytes(), &layout, &limits);
            assert_eq!(again.expect("our own form").key(&subject(FIELDS)), key);
        }
    });
}

#[test]
fn updates() {
    let ((schema, layout), limits) = (schema(), BodyLimits::default());
    for_texts("update", |text: &[u8]| {
        let Ok(update) = update::parse(text, &layout, &schema, &limits) else {
            return;
        };
        if let Ok(fields) = update::apply(FIELDS, &update, 0) {
            let whole = [b"{", &fields[..], b"}"].concat();
            let left: &RawValue = serde_json::from_slice(&whole).expect("an object");
            assert!(left.get().starts_with('{'));
        }
    });
}

#[test]
fn schemas() {
    let (schema, _) = schema();
    for_texts("schema", |text: &[u8]| {
        let Ok(changes) = Schema::parse_changes(text) else {
            return;
        };
        if let Ok(next) = schema.merge(&changes, &Principal::root()) {
            let stored = serde_json::to_string(&next).expect("is stored");
            let again: Schema = serde_json::from_str(&stored).expect("our own form");
            assert_eq!(again, next);
            let same = next.merge(&changes, &Principal::root());
            assert_eq!(same.expect("nothing new"), next);
        }
    });
}

#[test]
fn documents() {
    let ((schema, layout), limits) = (schema(), BodyLimits::default());
    for_texts("document", |text: &[u8]| {
        if let Ok(parsed) = body::parse(text, &layout, &schema, &limits) {
            let whole = [b"{", &parsed.fields[..], b"}"].concat();
            let again = body::parse(&whole, &layout, &schema, &limits).expect("our own form");
            assert_eq!(again.fields, parsed.fields);
        }
    });
}
