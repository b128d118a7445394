//! Texts that are nearly filters or sort orders: whatever they are, reading them ends with an answer, and so does asking them.

use std::sync::Arc;

use document::query::{Filter, Limits, Sort, Subject};
use document::schema::{Layout, Schema};
use proptest::prelude::*;
use proptest::sample::select;

fn layout() -> Arc<Layout> {
    Arc::new(Schema::system().layout("User").expect("a system class"))
}

/// Pieces that filters are made of, in any order.
fn text() -> impl Strategy<Value = String> {
    let pieces = vec![
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "\"",
        "\\",
        "null",
        "true",
        "0",
        "-1",
        "1e9",
        "1e999",
        " ",
        "\"a\":",
        "\"a.0.b\":",
        "\"id\":",
        "\"createdAt\":",
        "\"$and\":[",
        "\"$or\":[{",
        "\"$not\":{",
        "\"$in\":[",
        "\"$all\":[",
        "\"$elemMatch\":{",
        "\"$regex\":\"",
        "(a+)+$",
        "[^",
        "\"$options\":\"im\"",
        "\"$size\":",
        "\"$mod\":[2,",
        "\"$date\":\"",
        "1970-01-01",
        "\"$nearSphere\":{",
        "\"$geoWithin\":{",
        "\"$geometry\":{\"type\":\"Polygon\",\"coordinates\":[[[",
        "\"$geometry\":{\"type\":\"Point\",\"coordinates\":[",
        "\"$type\":",
        "\"\\ud800\"",
        "ä",
    ];
    prop::collection::vec(select(pieces), 0..24).prop_map(|pieces| pieces.concat())
}

/// The same with its brackets closed, so that most of them are JSON.
fn closed() -> impl Strategy<Value = String> {
    text().prop_map(|text| {
        let mut text = format!("{{{text}");
        let mut open = Vec::new();
        let mut in_string = false;
        for character in text.chars() {
            match character {
                '"' => in_string = !in_string,
                '{' if !in_string => open.push('}'),
                '[' if !in_string => open.push(']'),
                '}' | ']' if !in_string => {
                    open.pop();
                }
                _ => {}
            }
        }
        if in_string {
            text.push('"');
        }
        if text.ends_with([':', ',']) {
            text.push('0');
        }
        text.extend(open.into_iter().rev());
        text
    })
}

fn ask(text: &[u8], fields: &[u8]) {
    let (layout, limits) = (layout(), Limits::default());
    let subject = Subject {
        id: "/db/User/1",
        version: 1,
        created_us: i64::MIN,
        updated_us: i64::MAX,
        fields,
    };
    if let Ok(filter) = Filter::parse(text, &layout, &limits) {
        let again = Filter::parse(filter.canonical().as_bytes(), &layout, &limits);
        let again = again.expect("what was read can be read again");
        assert_eq!(filter.matches(&subject), again.matches(&subject));
        let _ = filter.order(Sort::default()).key(&subject);
    }
    if let Ok(sort) = Sort::parse(text, &layout, &limits) {
        let _ = sort.key(&subject);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn any_text_gets_an_answer(text in prop_oneof![text(), closed()], fields in text()) {
        ask(text.as_bytes(), fields.as_bytes());
    }

    #[test]
    fn any_bytes_get_an_answer(
        text in prop::collection::vec(any::<u8>(), 0..64),
        fields in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        ask(&text, &fields);
    }
}

/// Sizes at the limits: nesting, width, and long lists end in an answer too.
#[test]
fn big_texts_get_an_answer() {
    let deep = format!("{}{}{}", "{\"$nor\":[".repeat(15), "{}", "]}".repeat(15));
    let wide = format!("{{\"$or\":[{}{{}}]}}", "{\"a\":1},".repeat(900));
    let wider = format!("{{\"$or\":[{}{{}}]}}", "{\"a\":1},".repeat(1_000));
    let long = format!("{{\"a\":{{\"$in\":[{}0]}}}}", "1,".repeat(9_999));
    let longer = format!("{{\"a\":{{\"$in\":[{}0]}}}}", "1,".repeat(10_000));
    let fat = format!("{{\"a\":\"{}\"}}", "x".repeat(256 * 1024));
    let flat = format!("{{{}\"a\":1}}", "\"a\":1,".repeat(1_000));
    let (layout, limits) = (layout(), Limits::default());
    for (text, is_read) in [
        (deep, true),
        (wide, false),
        (wider, false),
        (long, true),
        (longer, false),
        (fat, false),
        (flat, true),
    ] {
        assert_eq!(
            Filter::parse(text.as_bytes(), &layout, &limits).is_ok(),
            is_read,
            "{}",
            &text[..40]
        );
        ask(text.as_bytes(), text.trim_matches(['{', '}']).as_bytes());
    }
    let brackets = "[".repeat(200_000);
    ask(brackets.as_bytes(), b"");
    let keys: String = (0..33).map(|key| format!("\"k{key}\":1,")).collect();
    let keys = format!("{{{}}}", keys.trim_end_matches(','));
    assert!(Sort::parse(keys.as_bytes(), &layout, &limits).is_err());
}
