//! Fuzz targets for the texts that strangers send: filters, updates, schemas and documents. As ordinary tests they run over the corpus
//! (`tests/__fuzz__`) and some thousand made-up inputs; `cargo bolero test -p document NAME` runs one for as long as one likes.
//!
//! Whatever the text is, reading it ends with an answer; and what was read and is written down is read again as the same.

use std::sync::Arc;

use document::acl::Principal;
use document::body::{self, Limits as BodyLimits};
use document::query::{Filter, Limits, Sort, Subject};
use document::schema::{Layout, Schema};
use document::update;

/// Inputs of one run as an ordinary test, beside the corpus.
const ITERATIONS: usize = 3_000;
/// Bytes of one.
const BYTES_MAX: usize = 256;

/// What the control characters of an input stand for, so that made-up ones are often nearly right; files of the corpus have none.
const PARTS: [&str; 32] = [
    "{\"", "\":{\"", "\":[", "\":", "]}", "}}", "},", "],", "$and", "$or", "$not", "$in", "$elemMatch", "$regex", "$inc", "$push", "$set",
    "\"1970-01-01\"", "null", "1e9", "n", "tags", "map", "day", "json", "\"class\":\"/db/", "\"fields\":{\"", "\"type\":\"/db/", "String\"",
    "collection.List[", "\\ud800", "ä",
];

const CLASS: &str = r#"[{"class":"/db/Thing","fields":{
    "n":{"name":"n","type":"/db/Integer"},
    "day":{"name":"day","type":"/db/Date"},
    "tags":{"name":"tags","type":"/db/collection.List[/db/String]"},
    "map":{"name":"map","type":"/db/collection.Map[/db/String,/db/DateTime]"},
    "place":{"name":"place","type":"/db/GeoPoint"},
    "json":{"name":"json","type":"/db/JsonObject"}}}]"#;

/// Hands texts to `each`, one after the other.
macro_rules! for_texts {
    ($name:literal, $each:expr) => {
        bolero::check!(name = $name)
            .with_iterations(ITERATIONS)
            .with_max_len(BYTES_MAX)
            .for_each(|bytes: &[u8]| $each(&text(bytes)))
    };
}

fn text(bytes: &[u8]) -> Vec<u8> {
    let parts = bytes.iter().map(|byte| match PARTS.get(usize::from(*byte)) {
        Some(part) => part.as_bytes(),
        None => std::slice::from_ref(byte),
    });
    parts.flatten().copied().collect()
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

const FIELDS: &[u8] = br#""n":7,"day":"1970-01-01","tags":["a","b"],"json":{"n":[1,{"n":null}]}"#;

#[test]
fn filters_and_orders() {
    let ((_, layout), limits) = (schema(), Limits::default());
    for_texts!("filter", |text: &[u8]| {
        if let Ok(filter) = Filter::parse(text, &layout, &limits) {
            let canonical = filter.canonical();
            let again = Filter::parse(canonical.as_bytes(), &layout, &limits).expect("our own form");
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
    for_texts!("update", |text: &[u8]| {
        let Ok(update) = update::parse(text, &layout, &schema, &limits) else {
            return;
        };
        if let Ok(fields) = update::apply(FIELDS, &update, 0) {
            // What an update leaves is a document that could have been put.
            let whole = [b"{", &fields[..], b"}"].concat();
            let put = body::parse(&whole, &layout, &schema, &limits).expect("a document");
            assert_eq!(put.fields, fields);
        }
    });
}

#[test]
fn schemas() {
    let (schema, _) = schema();
    for_texts!("schema", |text: &[u8]| {
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
    for_texts!("document", |text: &[u8]| {
        if let Ok(parsed) = body::parse(text, &layout, &schema, &limits) {
            let whole = [b"{", &parsed.fields[..], b"}"].concat();
            let again = body::parse(&whole, &layout, &schema, &limits).expect("our own form");
            assert_eq!(again.fields, parsed.fields);
        }
    });
}
