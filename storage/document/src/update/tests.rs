//! The operations by table. Random histories against a model are in `tests/update_model.rs`.

use serde_json::{Value, json};

use super::*;
use crate::acl::Principal;
use crate::body::{self, Limits};
use crate::error::Error;
use crate::schema::{Layout, Schema};

/// 2020-02-03T04:05:06.7Z
const NOW_US: i64 = 1_580_702_706_700_000;

struct Fixture {
    schema: Schema,
    layout: Layout,
}

impl Fixture {
    fn of(class: &str) -> Fixture {
        let types = [
            ("flag", "/db/Boolean"),
            ("n", "/db/Integer"),
            ("d", "/db/Double"),
            ("name", "/db/String"),
            ("at", "/db/DateTime"),
            ("day", "/db/Date"),
            ("hour", "/db/Time"),
            ("file", "/db/File"),
            ("ref", "/db/Animal"),
            ("emb", "/db/Node"),
            ("obj", "/db/JsonObject"),
            ("arr", "/db/JsonArray"),
            ("list", "/db/collection.List[/db/Integer]"),
            ("nodes", "/db/collection.List[/db/Node]"),
            ("refs", "/db/collection.List[/db/Animal]"),
            ("set", "/db/collection.Set[/db/String]"),
            ("nums", "/db/collection.Set[/db/Double]"),
            ("map", "/db/collection.Map[/db/String,/db/Integer]"),
            ("byref", "/db/collection.Map[/db/Animal,/db/Node]"),
        ];
        let mut fields: serde_json::Map<String, Value> = types
            .iter()
            .map(|(name, ty)| ((*name).to_owned(), json!({"name": name, "type": ty})))
            .collect();
        fields.insert(
            "fixed".to_owned(),
            json!({"name": "fixed", "type": "/db/String", "flags": ["READONLY"]}),
        );
        let changes = json!([
            {"class": "/db/All", "fields": fields},
            {"class": "/db/Animal", "fields": {}},
            {"class": "/db/Node", "embedded": true, "fields": {
                "x": {"name": "x", "type": "/db/Integer", "order": 0},
                "y": {"name": "y", "type": "/db/Integer", "order": 1},
                "z": {"name": "z", "type": "/db/Integer", "order": 2},
            }},
            {"class": "/db/Open", "metadata": {"larder.open": "true"}, "fields": {
                "n": {"name": "n", "type": "/db/Integer"},
            }},
        ]);
        let changes = Schema::parse_changes(changes.to_string().as_bytes()).expect("descriptors");
        let schema = Schema::system()
            .merge(&changes, &Principal::root())
            .expect("compatible");
        let layout = schema.layout(class).expect("an entity");
        Fixture { schema, layout }
    }

    fn fit(&self, operations: &str) -> Result<Update, Error> {
        parse(
            operations.as_bytes(),
            &self.layout,
            &self.schema,
            &Limits::default(),
        )
    }

    /// The value of `field` after the operations on a document of it alone.
    fn value(&self, field: &str, stored: &str, operations: &str) -> Result<String, String> {
        let update = self.fit(operations).map_err(|error| error.to_string())?;
        let fields = format!("\"{field}\":{stored}");
        let changed =
            apply(fields.as_bytes(), &update, NOW_US).map_err(|error| error.to_string())?;
        Ok(body::member(&changed, field).unwrap_or("gone").to_owned())
    }
}

#[test]
fn each_operation_has_the_effect_of_the_contract() {
    let all = Fixture::of("All");
    for (field, stored, operations, expected) in [
        ("n", "1", r#"{"$set":{"n":7.9}}"#, "7"),
        ("n", "null", r#"{"$inc":{"n":2}}"#, "2"),
        (
            "n",
            "9007199254740993",
            r#"{"$inc":{"n":-1}}"#,
            "9007199254740992",
        ),
        ("n", "5", r#"{"$dec":{"n":2}}"#, "3"),
        ("n", "12", r#"{"$mul":{"n":0.25}}"#, "3"),
        ("n", "null", r#"{"$mul":{"n":3}}"#, "0"),
        ("n", "null", r#"{"$min":{"n":-3}}"#, "-3"),
        ("n", "5", r#"{"$min":{"n":3}}"#, "3"),
        ("n", "5", r#"{"$max":{"n":3}}"#, "5"),
        ("n", "6", r#"{"$and":{"n":3}}"#, "2"),
        ("n", "6", r#"{"$or":{"n":3}}"#, "7"),
        ("n", "6", r#"{"$xor":{"n":3}}"#, "5"),
        ("d", "1.50", r#"{"$inc":{"d":1}}"#, "2.5"),
        ("d", "1.50", r#"{"$max":{"d":1.5}}"#, "1.50"),
        (
            "at",
            "null",
            r#"{"$currentDate":{"at":null}}"#,
            r#""2020-02-03T04:05:06.7Z""#,
        ),
        (
            "day",
            "null",
            r#"{"$currentDate":{"day":null}}"#,
            r#""2020-02-03""#,
        ),
        (
            "hour",
            "null",
            r#"{"$currentDate":{"hour":null}}"#,
            r#""04:05:06.7Z""#,
        ),
        ("list", "null", r#"{"$push":{"list":1}}"#, "[1]"),
        ("list", "[1]", r#"{"$push":{"list":2}}"#, "[1,2]"),
        ("list", "[1]", r#"{"$unshift":{"list":2}}"#, "[2,1]"),
        ("list", "[]", r#"{"$unshift":{"list":2}}"#, "[2]"),
        ("list", "[1,2]", r#"{"$pop":{"list":null}}"#, "[1]"),
        ("list", "[1,2]", r#"{"$shift":{"list":null}}"#, "[2]"),
        ("list", "[]", r#"{"$pop":{"list":null}}"#, "[]"),
        ("list", "null", r#"{"$shift":{"list":null}}"#, "null"),
        (
            "list",
            "[1,2,3]",
            r#"{"$replace":{"list.0":7,"list.2":9}}"#,
            "[7,2,9]",
        ),
        ("list", "[1,2]", r#"{"$inc":{"list.1":5}}"#, "[1,7]"),
        (
            "list",
            "[1,2,1,null]",
            r#"{"$remove":{"list":1}}"#,
            "[2,null]",
        ),
        (
            "nodes",
            r#"[{"x":1,"y":2},{"x":1}]"#,
            r#"{"$remove":{"nodes":{"y":2,"x":1}}}"#,
            r#"[{"x":1}]"#,
        ),
        (
            "nodes",
            r#"[{"x":1,"z":2}]"#,
            r#"{"$inc":{"nodes.0.y":4}}"#,
            r#"[{"x":1,"y":4,"z":2}]"#,
        ),
        ("set", r#"["a"]"#, r#"{"$add":{"set":"b"}}"#, r#"["a","b"]"#),
        ("set", r#"["a"]"#, r#"{"$add":{"set":"a"}}"#, r#"["a"]"#),
        ("set", "null", r#"{"$add":{"set":"a"}}"#, r#"["a"]"#),
        (
            "set",
            r#"["a","b"]"#,
            r#"{"$remove":{"set":"a"}}"#,
            r#"["b"]"#,
        ),
        ("nums", "[1.0]", r#"{"$add":{"nums":1}}"#, "[1.0]"),
        (
            "nums",
            "[9007199254740992]",
            r#"{"$add":{"nums":9007199254740993}}"#,
            "[9007199254740992]",
        ),
        (
            "map",
            "null",
            r#"{"$put":{"map":{"a":1.5,"b":2}}}"#,
            r#"{"a":1,"b":2}"#,
        ),
        (
            "map",
            r#"{"a":1,"b":2}"#,
            r#"{"$put":{"map":{"a":3}}}"#,
            r#"{"a":3,"b":2}"#,
        ),
        (
            "map",
            r#"{"a.b":1}"#,
            r#"{"$inc":{"map.a.b":1}}"#,
            r#"{"a.b":2}"#,
        ),
        (
            "map",
            r#"{"a":1,"b":2}"#,
            r#"{"$remove":{"map":"a"}}"#,
            r#"{"b":2}"#,
        ),
        (
            "map",
            r#"{"a":1,"b":2}"#,
            r#"{"$rename":{"map.a":"b"}}"#,
            r#"{"b":1}"#,
        ),
        (
            "map",
            r#"{"a":1,"b":2}"#,
            r#"{"$rename":{"map.a":"map.c"}}"#,
            r#"{"c":1,"b":2}"#,
        ),
        ("map", "null", r#"{"$rename":{"map.a":"b"}}"#, "null"),
        (
            "byref",
            r#"{"/db/Animal/1":{}}"#,
            r#"{"$remove":{"byref":{"id":"/db/Animal/%31","version":1}}}"#,
            "{}",
        ),
        (
            "byref",
            "null",
            r#"{"$set":{"byref./db/Animal/1.x":2}}"#,
            r#"{"/db/Animal/1":{"x":2}}"#,
        ),
        (
            "ref",
            "null",
            r#"{"$set":{"ref":{"id":"/db/Animal/1","name":"x"}}}"#,
            r#""/db/Animal/1""#,
        ),
        (
            "refs",
            "null",
            r#"{"$push":{"refs":{"id":"/db/Animal/1","version":2}}}"#,
            r#"["/db/Animal/1"]"#,
        ),
        (
            "file",
            "null",
            r#"{"$set":{"file":{"id":"/file/www/x","mimeType":"a"}}}"#,
            r#""/file/www/x""#,
        ),
        ("emb", "null", r#"{"$set":{"emb.y":1}}"#, r#"{"y":1}"#),
        (
            "emb",
            r#"{"y":1}"#,
            r#"{"$inc":{"emb.x":1,"emb.z":2}}"#,
            r#"{"x":1,"y":1,"z":2}"#,
        ),
        (
            "obj",
            "null",
            r#"{"$inc":{"obj.a.b":1}}"#,
            r#"{"a":{"b":1}}"#,
        ),
        (
            "obj",
            r#"{"a":1e400,"b":[1.10]}"#,
            r#"{"$push":{"obj.b":[ 2.0 ]}}"#,
            r#"{"a":1e400,"b":[1.10,[2.0]]}"#,
        ),
        (
            "obj",
            r#"{"a":1,"b":2}"#,
            r#"{"$rename":{"obj.b":"c"}}"#,
            r#"{"a":1,"c":2}"#,
        ),
        (
            "obj",
            r#"{"a":1,"b":2}"#,
            r#"{"$remove":{"obj":"a"}}"#,
            r#"{"b":2}"#,
        ),
        (
            "arr",
            r#"[{"a":1}]"#,
            r#"{"$inc":{"arr.0.a":0.5}}"#,
            r#"[{"a":1.5}]"#,
        ),
        (
            "arr",
            r#"[1,1.0,"1",{"b":2,"a":1}]"#,
            r#"{"$remove":{"arr":1}}"#,
            r#"["1",{"b":2,"a":1}]"#,
        ),
        (
            "arr",
            r#"[{"b":2,"a":1}]"#,
            r#"{"$add":{"arr":{"a":1,"b":2.0}}}"#,
            r#"[{"b":2,"a":1}]"#,
        ),
        // In order: each step sees what those before it did.
        (
            "list",
            "[]",
            r#"{"$push":{"list":1},"$replace":{"list.0":2}}"#,
            "[2]",
        ),
        ("n", "1", "{}", "1"),
        ("n", "1", r#"{"$inc":null}"#, "1"),
    ] {
        let value = all.value(field, stored, operations);
        assert_eq!(value.as_deref(), Ok(expected), "{stored} {operations}");
    }
}

#[test]
fn open_classes_have_json_semantics() {
    let open = Fixture::of("Open");
    for (field, stored, operations, expected) in [
        ("hits", "1", r#"{"$inc":{"hits":1}}"#, "2"),
        ("hits", "0.5", r#"{"$inc":{"hits":1}}"#, "1.5"),
        (
            "other",
            "1",
            r#"{"$inc":{"other":9223372036854775806}}"#,
            "9223372036854775807",
        ),
        (
            "a",
            r#"{"b":[{"c":1}]}"#,
            r#"{"$set":{"a.b.0.c":{"d" : null}}}"#,
            r#"{"b":[{"c":{"d":null}}]}"#,
        ),
        ("a", "null", r#"{"$push":{"a":"x"}}"#, r#"["x"]"#),
        (
            "a",
            r#"{"k":1}"#,
            r#"{"$put":{"a":{"l":2}}}"#,
            r#"{"k":1,"l":2}"#,
        ),
        (
            "a",
            "null",
            r#"{"$currentDate":{"a":null}}"#,
            r#""2020-02-03T04:05:06.7Z""#,
        ),
        ("a", "1", r#"{"$rename":{"a":"b"}}"#, "gone"),
    ] {
        let value = open.value(field, stored, operations);
        assert_eq!(value.as_deref(), Ok(expected), "{stored} {operations}");
    }
    let update = open.fit(r#"{"$rename":{"a":"b"}}"#).expect("fits");
    let renamed = apply(br#""a":1,"c":2,"b":3"#, &update, 0).expect("fits");
    assert_eq!(renamed, br#""b":1,"c":2"#);
    for (stored, operations, why) in [
        (r#""x""#, r#"{"$inc":{"a":1}}"#, "not a number"),
        ("1.5", r#"{"$or":{"a":1}}"#, "not an integer"),
        (
            "9223372036854775807",
            r#"{"$inc":{"a":1}}"#,
            "beyond the range",
        ),
        ("1e308", r#"{"$mul":{"a":10}}"#, "beyond the range"),
        ("1", r#"{"$push":{"a":1}}"#, "not a list"),
        ("1", r#"{"$set":{"a.b":1}}"#, "no members"),
        ("[1]", r#"{"$put":{"a":{"b":1}}}"#, "no members"),
        ("[1]", r#"{"$set":{"a.1":1}}"#, "no such element"),
        ("[1]", r#"{"$set":{"a.x":1}}"#, "no such element"),
        ("null", r#"{"$replace":{"a.0":1}}"#, "no such element"),
        (r#"{"k":1}"#, r#"{"$remove":{"a":1}}"#, "must be a string"),
    ] {
        let refused = open.value("a", stored, operations).expect_err(operations);
        assert!(refused.contains(why), "{operations}: {refused}");
    }
}

#[test]
fn what_does_not_fit_the_class_is_refused() {
    let all = Fixture::of("All");
    let bad = |error: &Error| matches!(error, Error::BadRequest(_));
    for operations in [
        r#"{"$inc":{"name":1}}"#,
        r#"{"$inc":{"n":"1"}}"#,
        r#"{"$inc":{"n":null}}"#,
        r#"{"$inc":{"n":9223372036854775808}}"#,
        r#"{"$inc":{"d":1e400}}"#,
        r#"{"$and":{"d":1}}"#,
        r#"{"$and":{"n":1.5}}"#,
        r#"{"$push":{"set":"a"}}"#,
        r#"{"$add":{"list":1}}"#,
        r#"{"$pop":{"list":1}}"#,
        r#"{"$put":{"list":{"0":1}}}"#,
        r#"{"$put":{"map":[1]}}"#,
        r#"{"$put":{"emb":{"x":1}}}"#,
        r#"{"$remove":{"map":null}}"#,
        r#"{"$remove":{"n":1}}"#,
        r#"{"$rename":{"n":"m"}}"#,
        r#"{"$rename":{"emb.x":"y"}}"#,
        r#"{"$rename":{"map.a":1}}"#,
        r#"{"$currentDate":{"n":null}}"#,
        r#"{"$currentDate":{"at":"2020-01-01"}}"#,
        r#"{"$replace":{"list":[1]}}"#,
        r#"{"$replace":{"list.01":1}}"#,
        r#"{"$replace":{"map.0":1}}"#,
        r#"{"$set":{"set.0":"a"}}"#,
        r#"{"$set":{"list.x":1}}"#,
        r#"{"$set":{"n.x":1}}"#,
        r#"{"$set":{"emb.w":1}}"#,
        r#"{"$set":{"unknown":1}}"#,
        r#"{"$set":{"fixed":"x"}}"#,
        r#"{"$set":{"_hidden":1}}"#,
        r#"{"$set":{"id":"/db/All/1"}}"#,
        r#"{"$set":{"acl":null}}"#,
        r#"{"$set":{"acl.read":{}}}"#,
        r#"{"$inc":{"version":1}}"#,
        r#"{"$currentDate":{"updatedAt":null}}"#,
        r#"{"$set":{"":1}}"#,
        r#"{"$set":{"obj.":1}}"#,
        r#"{"$set":{"obj..a":1}}"#,
        r#"{"$set":{"n":1,"n":2}}"#,
        r#"{"$set":{"n":1},"$inc":{"n":2}}"#,
        r#"{"$unset":{"n":1}}"#,
        r#"{"n":1}"#,
        r#"{"$set":1}"#,
    ] {
        let error = all.fit(operations).expect_err(operations);
        assert!(bad(&error), "{operations}: {error:?}");
    }
    // A value that would be stored is refused as in a whole body.
    for operations in [
        r#"{"$set":{"n":"1"}}"#,
        r#"{"$push":{"list":"1"}}"#,
        r#"{"$push":{"refs":"/db/User/1"}}"#,
        r#"{"$put":{"map":{"a":"b"}}}"#,
        r#"{"$set":{"obj":[]}}"#,
    ] {
        let error = all.fit(operations).expect_err(operations);
        assert!(
            matches!(error, Error::Type { .. }),
            "{operations}: {error:?}"
        );
    }
    for operations in [
        "",
        "[]",
        "{",
        r#"{"$set":{"n":}}"#,
        r#"{"$set":{"name":"\ud800"}}"#,
        "{} {}",
    ] {
        let error = all.fit(operations).expect_err(operations);
        assert!(matches!(error, Error::Syntax(_)), "{operations}: {error:?}");
    }
    let open = Fixture::of("Open");
    assert!(bad(&open
        .fit(r#"{"$rename":{"a":"n"}}"#)
        .expect_err("a field")));
    assert!(bad(&open
        .fit(r#"{"$rename":{"a":"id"}}"#)
        .expect_err("metadata")));
}

#[test]
fn sizes_are_limited() {
    let open = Fixture::of("Open");
    let many = |count: usize| {
        let paths: Vec<String> = (0..count).map(|at| format!("\"p{at}\":1")).collect();
        open.fit(&format!("{{\"$inc\":{{{}}}}}", paths.join(",")))
    };
    assert_eq!(
        many(STEPS_MAX).map(|update| update.steps.len()),
        Ok(STEPS_MAX)
    );
    assert!(matches!(many(STEPS_MAX + 1), Err(Error::BadRequest(_))));
    let deep = |parts: usize| {
        open.fit(&format!(
            "{{\"$inc\":{{\"{}\":1}}}}",
            vec!["a"; parts].join(".")
        ))
    };
    assert!(deep(PATH_SEGMENTS_MAX).is_ok());
    assert!(matches!(
        deep(PATH_SEGMENTS_MAX + 1),
        Err(Error::BadRequest(_))
    ));
    // The document would be as deep as its limit, and one deeper.
    let nested = |levels: usize| {
        let value = format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        let limits = Limits { depth_max: 10 };
        let body = format!("{{\"$push\":{{\"a.b\":{value}}}}}");
        parse(body.as_bytes(), &open.layout, &open.schema, &limits)
    };
    assert!(nested(7).is_ok());
    assert_eq!(nested(8), Err(Error::TooDeep { limit: 10 }));
}

#[test]
fn an_update_of_a_field_is_one_of_its_document() {
    let limits = Limits::default();
    let of = |body: &str| {
        of_field(body.as_bytes(), "a\"b", &limits).map(|out| String::from_utf8(out).expect("UTF-8"))
    };
    assert_eq!(of("{}"), Ok("{}".to_owned()));
    assert_eq!(
        of(r#"{ "$inc": 1e0, "$push": [ 1 ] }"#),
        Ok(r#"{"$inc":{"a\"b":1e0},"$push":{"a\"b":[ 1 ]}}"#.to_owned())
    );
    assert!(matches!(of("[1]"), Err(Error::Syntax(_))));
}
