//! Partial updates against a model: the same operations done on a `serde_json::Value` in the plainest way, after random histories.

use std::fmt::Write as _;

use document::acl::Principal;
use document::body::{self, Limits};
use document::schema::{Layout, Schema};
use document::update::{apply, of_field, parse};
use proptest::prelude::*;
use serde_json::{Value, json};

fn class(name: &str) -> (Schema, Layout) {
    let field = |name: &str, ty: &str| (name.to_owned(), json!({"name": name, "type": ty}));
    let fields: serde_json::Map<String, Value> = [
        field("n", "/db/Integer"),
        field("list", "/db/collection.List[/db/Integer]"),
        field("set", "/db/collection.Set[/db/String]"),
        field("map", "/db/collection.Map[/db/String,/db/Integer]"),
        field("emb", "/db/Node"),
    ]
    .into_iter()
    .collect();
    let changes = json!([
        {"class": "/db/Typed", "fields": fields},
        {"class": "/db/Open", "metadata": {"larder.open": "true"}, "fields": {}},
        {"class": "/db/Node", "embedded": true, "fields": {
            "x": {"name": "x", "type": "/db/Integer", "order": 0},
            "y": {"name": "y", "type": "/db/Integer", "order": 1},
        }},
    ]);
    let changes = Schema::parse_changes(changes.to_string().as_bytes()).expect("descriptors");
    let schema = Schema::system()
        .merge(&changes, &Principal::root())
        .expect("compatible");
    let layout = schema.layout(name).expect("an entity");
    (schema, layout)
}

/// An operation, its path, its argument.
type Op = (&'static str, String, Value);

/// What the model says: done, or refused.
fn model(document: &mut Value, (operation, path, argument): &Op, is_typed: bool) -> Option<()> {
    let mut parts: Vec<&str> = path.split('.').collect();
    let on_holder = matches!(*operation, "$replace" | "$rename");
    let last = if on_holder { parts.pop()? } else { "" };
    let creates = !matches!(*operation, "$pop" | "$shift" | "$remove" | "$rename");
    let mut at = document;
    for part in parts {
        if at.is_null() {
            // Lists are not made to have an element.
            let is_element = is_typed && path.starts_with("list.");
            if creates && (on_holder || is_element) {
                return None;
            }
            if !creates {
                return Some(());
            }
            *at = json!({});
        }
        at = match at {
            Value::Object(members) => match members.get_mut(part) {
                None if !creates => return Some(()),
                _ => members.entry(part).or_insert(Value::Null),
            },
            Value::Array(elements) => match (part.parse::<usize>(), creates) {
                (Err(_), _) => return None,
                (Ok(index), true) => elements.get_mut(index)?,
                (Ok(index), false) => match elements.get_mut(index) {
                    Some(element) => element,
                    None => return Some(()),
                },
            },
            _ => return None,
        };
    }
    let number = |at: &Value| if at.is_null() { Some(0) } else { at.as_i64() };
    match *operation {
        "$set" => *at = argument.clone(),
        "$inc" => *at = number(at)?.checked_add(argument.as_i64()?)?.into(),
        "$dec" => *at = number(at)?.checked_sub(argument.as_i64()?)?.into(),
        "$mul" => *at = number(at)?.checked_mul(argument.as_i64()?)?.into(),
        "$min" if at.is_null() => *at = argument.clone(),
        "$max" if at.is_null() => *at = argument.clone(),
        "$min" => *at = number(at)?.min(argument.as_i64()?).into(),
        "$max" => *at = number(at)?.max(argument.as_i64()?).into(),
        "$and" => *at = (number(at)? & argument.as_i64()?).into(),
        "$or" => *at = (number(at)? | argument.as_i64()?).into(),
        "$xor" => *at = (number(at)? ^ argument.as_i64()?).into(),
        "$push" | "$unshift" | "$add" => {
            if at.is_null() {
                *at = json!([]);
            }
            let list = at.as_array_mut()?;
            match *operation {
                "$unshift" => list.insert(0, argument.clone()),
                "$add" if list.contains(argument) => {}
                _ => list.push(argument.clone()),
            }
        }
        "$pop" | "$shift" if at.is_null() => {}
        "$pop" => drop(at.as_array_mut()?.pop()),
        "$shift" => {
            let list = at.as_array_mut()?;
            if !list.is_empty() {
                list.remove(0);
            }
        }
        "$remove" => match at {
            Value::Null => {}
            Value::Array(list) => list.retain(|element| element != argument),
            Value::Object(members) => drop(members.shift_remove(argument.as_str()?)),
            _ => return None,
        },
        "$put" => {
            if at.is_null() {
                *at = json!({});
            }
            at.as_object_mut()?.extend(argument.as_object()?.clone());
        }
        "$replace" => *at.as_array_mut()?.get_mut(last.parse::<usize>().ok()?)? = argument.clone(),
        "$rename" if at.is_null() => {}
        "$rename" => {
            let members = at.as_object_mut()?;
            let to = argument.as_str()?;
            if to != last
                && let Some(value) = members.shift_remove(last)
            {
                members.insert(to.to_owned(), value);
            }
        }
        other => panic!("no operation {other}"),
    }
    Some(())
}

/// Operations that fit the typed class; small numbers and words, so that they meet.
fn typed() -> impl Strategy<Value = Op> {
    let n = -3_i64..4;
    let word = prop::sample::select(vec!["a", "b", "c"]);
    let integers = [
        "$set", "$inc", "$dec", "$mul", "$min", "$max", "$and", "$or", "$xor",
    ];
    let places = ["n", "emb.x", "emb.y", "map.a", "map.b", "list.0", "list.1"];
    prop_oneof![
        (
            prop::sample::select(integers.to_vec()),
            prop::sample::select(places.to_vec()),
            n.clone()
        )
            .prop_map(|(operation, path, n)| (operation, path.to_owned(), json!(n))),
        (
            prop::sample::select(vec!["$push", "$unshift", "$remove"]),
            n.clone()
        )
            .prop_map(|(operation, n)| (operation, "list".to_owned(), json!(n))),
        prop::sample::select(vec!["$pop", "$shift"]).prop_map(|operation| (
            operation,
            "list".to_owned(),
            Value::Null
        )),
        (0..3_usize, n.clone()).prop_map(|(at, n)| ("$replace", format!("list.{at}"), json!(n))),
        (prop::sample::select(vec!["$add", "$remove"]), word.clone())
            .prop_map(|(operation, word)| (operation, "set".to_owned(), json!(word))),
        (word.clone(), n).prop_map(|(word, n)| ("$put", "map".to_owned(), json!({ word: n }))),
        word.clone()
            .prop_map(|word| ("$remove", "map".to_owned(), json!(word))),
        (word.clone(), word).prop_map(|(from, to)| ("$rename", format!("map.{from}"), json!(to))),
    ]
}

/// Any JSON, small.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::from),
        "[a-c\"\\\\,:{}\\[\\]é]{0,3}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::vec(("[a-c]", inner), 0..3)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// Operations on documents of the open class: whatever comes.
fn untyped() -> impl Strategy<Value = Op> {
    let path = "[a-c](\\.[a-c0-1]){0,2}";
    let numbers = vec![
        "$inc", "$dec", "$mul", "$min", "$max", "$and", "$or", "$xor",
    ];
    prop_oneof![
        (
            prop::sample::select(vec!["$set", "$push", "$unshift", "$add", "$remove"]),
            path,
            any_json()
        )
            .prop_map(|(operation, path, value)| (operation, path, value)),
        (prop::sample::select(numbers), path, -9_i64..9).prop_map(|(operation, path, n)| (
            operation,
            path,
            json!(n)
        )),
        (prop::sample::select(vec!["$pop", "$shift"]), path).prop_map(|(operation, path)| (
            operation,
            path,
            Value::Null
        )),
        (path, "[a-c]").prop_map(|(path, name)| ("$rename", path, json!(name))),
        (path, any_json(), "[a-c]").prop_map(|(path, value, name)| (
            "$put",
            path,
            json!({ name: value })
        )),
        ("[a-c](\\.[a-c]){0,1}\\.[0-2]", any_json())
            .prop_map(|(path, value)| ("$replace", path, value)),
    ]
}

/// Runs a history on both, and compares after each update.
fn check(class_name: &str, history: &[Op]) -> Result<(), TestCaseError> {
    let (schema, layout) = class(class_name);
    let limits = Limits::default();
    let empty = body::parse(b"{}", &layout, &schema, &limits).expect("fits");
    let mut fields = empty.fields;
    let mut wanted = as_value(&fields);
    for op in history {
        let operations = json!({ op.0: { &op.1: &op.2 } }).to_string();
        let update = parse(operations.as_bytes(), &layout, &schema, &limits);
        let update =
            update.map_err(|error| TestCaseError::fail(format!("{operations}: {error}")))?;
        let mut next = wanted.clone();
        let expected = model(&mut next, op, class_name == "Typed");
        let changed = apply(&fields, &update, 0);
        prop_assert_eq!(
            changed.is_ok(),
            expected.is_some(),
            "{} on {}",
            operations,
            wanted
        );
        if let Ok(changed) = changed {
            fields = changed;
            wanted = next;
        }
        prop_assert_eq!(as_value(&fields), wanted.clone(), "after {}", operations);
        // What an update leaves is in normal form: as a whole body it would be stored with the same bytes.
        let whole = format!("{{{}}}", String::from_utf8_lossy(&fields));
        let parsed = body::parse(whole.as_bytes(), &layout, &schema, &limits).expect("fits");
        prop_assert_eq!(&parsed.fields, &fields, "after {}", operations);
    }
    Ok(())
}

fn as_value(fields: &[u8]) -> Value {
    let text = format!("{{{}}}", String::from_utf8_lossy(fields));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// Text that is nearly an update.
fn nearly() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "null",
        "1",
        "-0",
        "1e999",
        "\"$set\"",
        "\"$inc\"",
        "\"$put\"",
        "\"$replace\"",
        "\"$rename\"",
        "\"$remove\"",
        "\"$push\"",
        "\"n\"",
        "\"list.0\"",
        "\"map.a\"",
        "\"emb.x\"",
        "\"..\"",
        "\"\\ud800\"",
        "{\"$add\":{\"set\":",
        "\"id\"",
        " ",
    ]);
    prop::collection::vec(part, 0..14).prop_map(|parts| {
        parts.into_iter().fold(String::new(), |mut text, part| {
            let _ = write!(text, "{part}");
            text
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn typed_documents_follow_the_model(history in prop::collection::vec(typed(), 1..12)) {
        check("Typed", &history)?;
    }

    #[test]
    fn open_documents_follow_the_model(history in prop::collection::vec(untyped(), 1..8)) {
        check("Open", &history)?;
    }

    #[test]
    fn reading_never_panics(text in prop_oneof![nearly(), "\\PC{0,40}"], stored in any_json()) {
        let fields = format!("\"n\":{stored},\"list\":{stored},\"map\":{stored},\"emb\":{stored}");
        for name in ["Typed", "Open"] {
            let (schema, layout) = class(name);
            let limits = Limits::default();
            let _ = of_field(text.as_bytes(), "n", &limits);
            if let Ok(update) = parse(text.as_bytes(), &layout, &schema, &limits) {
                // Whatever is stored, also what no value of the class could be.
                if let Ok(changed) = apply(fields.as_bytes(), &update, 0) {
                    as_value(&changed);
                }
            }
        }
    }
}
