//! The contract's rules for bodies, one table each, and the properties that hold for all of them.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::acl::Principal;
use crate::error::Error;
use crate::schema::{Layout, Schema};
use crate::time;

/// A class with a field of each type, one that is open, and what they refer to.
fn schema() -> Schema {
    let types = [
        ("flag", "/db/Boolean"),
        ("ratio", "/db/Double"),
        ("count", "/db/Integer"),
        ("name", "/db/String"),
        ("at", "/db/DateTime"),
        ("day", "/db/Date"),
        ("hour", "/db/Time"),
        ("file", "/db/File"),
        ("place", "/db/GeoPoint"),
        ("array", "/db/JsonArray"),
        ("object", "/db/JsonObject"),
        ("owner", "/db/Animal"),
        ("node", "/db/Node"),
        ("list", "/db/collection.List[/db/Integer]"),
        ("nodes", "/db/collection.List[/db/Node]"),
        ("numbers", "/db/collection.Set[/db/Double]"),
        ("days", "/db/collection.Set[/db/DateTime]"),
        ("flags", "/db/collection.Map[/db/Boolean,/db/Integer]"),
        ("when", "/db/collection.Map[/db/DateTime,/db/String]"),
        ("refs", "/db/collection.Map[/db/Animal,/db/Node]"),
    ];
    let fields: serde_json::Map<String, Value> = types
        .iter()
        .map(|(name, ty)| ((*name).to_owned(), json!({"name": name, "type": ty})))
        .collect();
    let changes = json!([
        {"class": "/db/All", "fields": fields},
        {"class": "/db/Animal", "fields": {}},
        {"class": "/db/Dog", "superClass": "/db/Animal", "fields": {}},
        {"class": "/db/Node", "embedded": true, "fields": {
            "n": {"name": "n", "type": "/db/Integer"},
            "child": {"name": "child", "type": "/db/Node"},
            "ref": {"name": "ref", "type": "/db/Animal"},
        }},
        {"class": "/db/Open", "metadata": {"larder.open": "true"}, "fields": {
            "name": {"name": "name", "type": "/db/String"},
        }},
        {"class": "/db/Bare", "fields": {}},
    ]);
    let changes = Schema::parse_changes(changes.to_string().as_bytes()).expect("descriptors");
    Schema::system()
        .merge(&changes, &Principal::root())
        .expect("compatible")
}

struct Fixture {
    schema: Schema,
    layout: Layout,
}

impl Fixture {
    fn of(class: &str) -> Fixture {
        let schema = schema();
        let layout = schema.layout(class).expect("entity");
        Fixture { schema, layout }
    }

    fn parse(&self, body: &str) -> Result<Parsed, Error> {
        parse(
            body.as_bytes(),
            &self.layout,
            &self.schema,
            &Limits::default(),
        )
    }

    fn fields(&self, body: &str) -> String {
        let parsed = self
            .parse(body)
            .unwrap_or_else(|error| panic!("{body}: {error}"));
        String::from_utf8(parsed.fields).expect("UTF-8")
    }

    /// The normal form of the one field in the body.
    fn value(&self, name: &str, value: &str) -> Result<String, Error> {
        let parsed = self.parse(&format!("{{\"{name}\":{value}}}"))?;
        Ok(member(&parsed.fields, name)
            .expect("every field is there")
            .to_owned())
    }
}

#[test]
fn values_are_written_in_the_form_of_their_type() {
    let all = Fixture::of("All");
    for (name, sent, stored) in [
        ("flag", "true", "true"),
        ("flag", "null", "null"),
        ("ratio", "1", "1"),
        ("ratio", "-0.10E+2", "-0.10E+2"),
        ("count", "1.99", "1"),
        ("count", "9007199254740993", "9007199254740993"),
        ("count", "-9223372036854775808", "-9223372036854775808"),
        ("count", "2e3", "2000"),
        ("name", r#""x""#, r#""x""#),
        ("name", r#""\u00e4\/\"\n""#, r#""ä/\"\n""#),
        ("name", r#""\ud83d\ude00""#, r#""😀""#),
        ("name", r#""\u0000""#, r#""\u0000""#),
        (
            "at",
            r#""2018-01-12T10:50:55.450+01:00""#,
            r#""2018-01-12T09:50:55.45Z""#,
        ),
        ("at", r#""2018-01-12""#, r#""2018-01-12T00:00:00Z""#),
        ("day", r#""2020-02-03T04:05:06Z""#, r#""2020-02-03""#),
        ("hour", r#""04:05:06.700Z""#, r#""04:05:06.7Z""#),
        ("file", r#""/file/www/a b.txt""#, r#""/file/www/a b.txt""#),
        (
            "file",
            r#"{"id":"/file/www/x","mimeType":"text/plain"}"#,
            r#""/file/www/x""#,
        ),
        (
            "place",
            r#"{"longitude": 10.50, "latitude":-90, "x":1}"#,
            r#"{"latitude":-90,"longitude":10.50}"#,
        ),
        (
            "array",
            r#"[ 1.10 , {"b":2,"a":1} ]"#,
            r#"[1.10,{"b":2,"a":1}]"#,
        ),
        (
            "object",
            "{ \"b\" :\n 1e400, \"a b\": [ ] }",
            r#"{"b":1e400,"a b":[]}"#,
        ),
        ("owner", r#""/db/Animal/%61%20b""#, r#""/db/Animal/a%20b""#),
        ("owner", r#""/db/Dog/1""#, r#""/db/Dog/1""#),
        (
            "owner",
            r#"{"id":"/db/Dog/1","version":2,"deep":{"id":3}}"#,
            r#""/db/Dog/1""#,
        ),
        (
            "node",
            r#"{"ref":"/db/Dog/1","n":1.5,"id":"x"}"#,
            r#"{"n":1,"ref":"/db/Dog/1"}"#,
        ),
        (
            "node",
            r#"{"child":{"child":{"n":3}},"n":1}"#,
            r#"{"n":1,"child":{"child":{"n":3}}}"#,
        ),
        ("node", "{}", "{}"),
        ("list", "[ 3, null, 1.0, 3 ]", "[3,null,1,3]"),
        ("list", "[]", "[]"),
        ("list", "null", "null"),
        ("nodes", r#"[{"n":1},null]"#, r#"[{"n":1},null]"#),
        (
            "numbers",
            "[1, 1.0, 2, 10e-1, -0.0, 0, null, null]",
            "[1,2,-0.0,null]",
        ),
        (
            "days",
            r#"["2020-01-01","2020-01-01T00:00:00.000Z"]"#,
            r#"["2020-01-01T00:00:00Z"]"#,
        ),
        (
            "flags",
            r#"{"true":1,"false":null}"#,
            r#"{"true":1,"false":null}"#,
        ),
        (
            "flags",
            r#"{"true":1,"false":2,"true":3}"#,
            r#"{"true":3,"false":2}"#,
        ),
        (
            "when",
            r#"{"1970-01-01T00:00:00.000Z":"x"}"#,
            r#"{"1970-01-01T00:00:00Z":"x"}"#,
        ),
        (
            "refs",
            r#"{"/db/Dog/1":{"n":1}}"#,
            r#"{"/db/Dog/1":{"n":1}}"#,
        ),
        ("refs", "{}", "{}"),
    ] {
        assert_eq!(
            all.value(name, sent).as_deref(),
            Ok(stored),
            "{name}: {sent}"
        );
        // The normal form is its own normal form.
        assert_eq!(
            all.value(name, stored).as_deref(),
            Ok(stored),
            "{name}: {stored}"
        );
    }
}

#[test]
fn values_that_do_not_fit_are_refused_with_their_path() {
    let all = Fixture::of("All");
    for (name, sent, path) in [
        ("flag", "1", "flag"),
        ("flag", r#""true""#, "flag"),
        ("ratio", r#""1""#, "ratio"),
        ("ratio", "1e400", "ratio"),
        ("count", "9223372036854775808", "count"),
        ("count", "1e30", "count"),
        ("count", "true", "count"),
        ("name", "1", "name"),
        ("name", r#"["x"]"#, "name"),
        ("at", "1515754255", "at"),
        ("at", r#""yesterday""#, "at"),
        ("day", r#""2020-02-30""#, "day"),
        ("hour", r#""25:00""#, "hour"),
        ("file", r#""/db/Dog/1""#, "file"),
        ("file", r#""/file/www""#, "file"),
        ("place", r#"{"latitude":91,"longitude":0}"#, "place"),
        ("place", r#"{"latitude":1,"longitude":-180.5}"#, "place"),
        ("place", r#"{"latitude":1}"#, "place"),
        ("place", r#"{"latitude":"1","longitude":1}"#, "place"),
        ("place", "[1,2]", "place"),
        ("array", "{}", "array"),
        ("object", "[]", "object"),
        ("owner", r#""/db/Bare/1""#, "owner"),
        ("owner", r#""/db/Nothing/1""#, "owner"),
        ("owner", r#""1""#, "owner"),
        ("owner", r#"{"version":1}"#, "owner"),
        ("owner", "7", "owner"),
        ("node", r#""/db/Node/1""#, "node"),
        ("node", "[]", "node"),
        ("node", r#"{"child":{"n":"x"}}"#, "node.child.n"),
        ("list", "{}", "list"),
        ("list", "1", "list"),
        ("list", r#"[1,"x"]"#, "list[1]"),
        ("nodes", r#"[null,{"ref":1}]"#, "nodes[1].ref"),
        ("numbers", r#"["1"]"#, "numbers[0]"),
        ("flags", r#"{"yes":1}"#, "flags.yes"),
        ("flags", r#"{"true":"x"}"#, "flags.true"),
        ("flags", "[]", "flags"),
        ("refs", r#"{"/db/Bare/1":null}"#, "refs./db/Bare/1"),
    ] {
        match all.value(name, sent) {
            Err(Error::Type { field, message }) => {
                assert_eq!(field, path, "{name}: {sent}");
                assert!(!message.is_empty());
            }
            other => panic!("{name}: {sent}: {other:?}"),
        }
    }
}

#[test]
fn messages_do_not_quote_what_they_refuse() {
    let all = Fixture::of("All");
    for (name, sent) in [
        ("list", r#""hunter2""#),
        ("node", r#""hunter2""#),
        ("count", r#""hunter2""#),
        ("at", r#""hunter2""#),
    ] {
        let error = all.value(name, sent).expect_err("wrong type").to_string();
        assert!(!error.contains("hunter2"), "{error}");
    }
    let error = all
        .parse(r#""hunter2""#)
        .expect_err("no object")
        .to_string();
    assert_eq!(error, "expected a JSON object at line 1 column 1");
}

#[test]
fn fields_come_in_class_order_and_unset_ones_are_null() {
    let dog = Fixture::of("User");
    assert_eq!(dog.fields("{}"), r#""username":null,"inactive":null"#);
    assert_eq!(Fixture::of("Bare").fields(r#"{"a":1,"b":{"c":[2]}}"#), "");
    let role = Fixture::of("Role");
    assert_eq!(
        role.fields(r#" { "users" : [ "/db/User/1" , "/db/User/1" ] , "name" : "x" } "#),
        r#""name":"x","users":["/db/User/1"]"#
    );
    assert_eq!(
        role.fields(r#"{"name":"a","name":"b"}"#),
        r#""name":"b","users":null"#
    );
    assert_eq!(
        role.fields(r#"{"na\u006de":"a"}"#),
        r#""name":"a","users":null"#
    );
}

#[test]
fn metadata_is_taken_or_passed_over() {
    let bare = Fixture::of("Bare");
    let parsed = bare
        .parse(
            r#"{"id":"/db/Bare/a%20b","version":{"any":1},"acl":{"read":{"/db/User/10":"allow"}},
                "createdAt":7,"updatedAt":null}"#,
        )
        .expect("valid");
    assert_eq!(parsed.id.as_deref(), Some("/db/Bare/a%20b"));
    assert_eq!(parsed.key("Bare"), Ok(Some("a b".to_owned())));
    assert_eq!(parsed.check_id("Bare", "a b"), Ok(()));
    assert!(matches!(
        parsed.check_id("Bare", "a"),
        Err(Error::BadRequest(_))
    ));
    assert!(matches!(parsed.key("Dog"), Err(Error::BadRequest(_))));
    assert_eq!(
        parsed.acl.expect("restricted").to_json(),
        r#"{"read":{"/db/User/10":"allow"},"write":{}}"#
    );
    assert!(parsed.fields.is_empty());

    for body in [
        "{}",
        r#"{"id":null,"acl":null}"#,
        r#"{"acl":{"read":{},"write":{}}}"#,
    ] {
        let parsed = bare.parse(body).expect("valid");
        assert_eq!(
            (parsed.id.as_ref(), parsed.acl.as_ref()),
            (None, None),
            "{body}"
        );
        assert_eq!(parsed.check_id("Bare", "anything"), Ok(()));
    }
    for body in [
        r#"{"id":1}"#,
        r#"{"acl":"public"}"#,
        r#"{"acl":{"read":{"*":"maybe"}}}"#,
        r#"{"acl":[]}"#,
    ] {
        assert!(
            matches!(bare.parse(body), Err(Error::BadRequest(_))),
            "{body}"
        );
    }
    let malformed = bare
        .parse(r#"{"id":"Bare/1"}"#)
        .expect("only text is demanded here");
    assert!(matches!(malformed.key("Bare"), Err(Error::BadRequest(_))));
}

#[test]
fn open_classes_keep_unknown_members_as_they_are() {
    let open = Fixture::of("Open");
    assert_eq!(
        open.fields(r#"{"z":1.0e+2,"big":123456789012345678901234567890, "name":"x","a":{"y":[ null ],"x":"\u00e4"}, "version":3,"_id":7}"#),
        r#""name":"x","z":1.0e+2,"big":123456789012345678901234567890,"a":{"y":[null],"x":"\u00e4"},"_id":7"#
    );
    assert_eq!(
        open.fields(r#"{"a":1,"b":2,"a":3,"q\"":4}"#),
        r#""name":null,"a":3,"b":2,"q\"":4"#
    );
    assert!(matches!(
        open.parse(r#"{"name":1}"#),
        Err(Error::Type { .. })
    ));
}

#[test]
fn what_is_no_json_object_is_a_syntax_error_with_a_position() {
    let open = Fixture::of("Open");
    for (body, place) in [
        ("", "line 1 column 0"),
        ("  \n ", "line 2 column 1"),
        ("[1]", "line 1 column 1"),
        ("\n  \"x\"", "line 2 column 3"),
        ("null", "line 1 column 1"),
        ("{", "line 1 column 1"),
        (r#"{"a":1"#, "line 1 column 6"),
        (r#"{"a":1,}"#, "line 1 column 8"),
        (r#"{"a":01}"#, "line 1 column 7"),
        (r#"{"a":tru}"#, "line 1 column"),
        (r#"{"a":1} x"#, "line 1 column 9"),
        ("{\"a\":\n\"\u{1}\"}", "line 2 column"),
        (r#"{"a":"\x"}"#, "line 1 column"),
        (r#"{"a":"\ud800"}"#, "line 1 column 7"),
        (r#"{"name":"\udc00\ud800"}"#, "line 1 column 10"),
        (r#"{"\ud800":1}"#, "line 1 column 3"),
    ] {
        match open.parse(body) {
            Err(Error::Syntax(message)) => assert!(message.contains(place), "{body:?}: {message}"),
            other => panic!("{body:?}: {other:?}"),
        }
    }
    let latin1 = parse(
        b"{\"a\":\"\xe4\"}",
        &open.layout,
        &open.schema,
        &Limits::default(),
    );
    assert!(matches!(latin1, Err(Error::Syntax(_))));
}

#[test]
fn depth_is_limited_for_every_kind_of_member() {
    let all = Fixture::of("All");
    let open = Fixture::of("Open");
    for (fixture, name, start, end) in [
        (&open, "unknown", "[", "]"),
        (&all, "unknown", "[", "]"),
        (&all, "array", "[", "]"),
        (&all, "version", "[", "]"),
        (&all, "node", "{\"child\":", "}"),
    ] {
        let innermost = if start == "[" { "" } else { "null" };
        let body = |depth: usize| {
            format!(
                "{{\"{name}\":{}{innermost}{}}}",
                start.repeat(depth),
                end.repeat(depth)
            )
        };
        assert!(fixture.parse(&body(99)).is_ok(), "{name}");
        assert_eq!(
            fixture.parse(&body(100)),
            Err(Error::TooDeep { limit: 100 }),
            "{name}"
        );
        assert_eq!(
            fixture.parse(&body(200_000)),
            Err(Error::TooDeep { limit: 100 }),
            "{name}"
        );
    }
    let never_closed = format!("{{\"x\":{}", "[".repeat(200_000));
    assert_eq!(
        open.parse(&never_closed),
        Err(Error::TooDeep { limit: 100 })
    );
    // Brackets in strings are text.
    assert!(
        open.parse(&format!("{{\"x\":\"{}\"}}", "[".repeat(1_000)))
            .is_ok()
    );
}

#[test]
fn read_only_fields_are_taken_from_admins_and_kept_for_others() {
    let user = Fixture::of("User");
    let stored = br#""username":"alice","inactive":null"#;
    let body = r#"{"username":"mallory","inactive":true}"#;
    let parsed = user.parse(body).expect("valid");
    assert_eq!(parsed.fields, br#""username":null,"inactive":null"#);
    assert_eq!(
        parsed.readonly,
        [
            ("username".to_owned(), "\"mallory\"".to_owned()),
            ("inactive".to_owned(), "true".to_owned())
        ]
    );
    let fields = |body: &str, stored: Option<&[u8]>, is_admin: bool| {
        let parsed = user.parse(body).expect("valid");
        String::from_utf8(parsed.into_fields(&user.layout, stored, is_admin)).expect("UTF-8")
    };
    assert_eq!(
        fields(body, Some(stored), false),
        r#""username":"alice","inactive":null"#
    );
    assert_eq!(
        fields(body, Some(stored), true),
        r#""username":"mallory","inactive":true"#
    );
    assert_eq!(
        fields(r#"{"inactive":true}"#, Some(stored), true),
        r#""username":"alice","inactive":true"#
    );
    assert_eq!(
        fields(body, None, false),
        r#""username":null,"inactive":null"#
    );
    assert_eq!(
        fields(body, None, true),
        r#""username":"mallory","inactive":true"#
    );
    assert!(matches!(
        user.parse(r#"{"username":1}"#),
        Err(Error::Type { .. })
    ));
}

/// JSON values as clients might send them in an open class.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>()
            .prop_filter("finite", |value| value.is_finite())
            .prop_map(Value::from),
        "\\PC{0,8}|[\\x00-\\x7f]{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec(("\\PC{0,6}", inner), 0..5)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn open_documents_come_back_as_they_went_in(
        members in prop::collection::vec(("[a-z\"\\\\ä.]{1,5}", any_json()), 0..8),
        pretty: bool,
    ) {
        let open = Fixture::of("Open");
        let taken = ["id", "acl", "name", "version"];
        let sent: serde_json::Map<String, Value> =
            members.into_iter().filter(|(name, _)| !taken.contains(&name.as_str())).collect();
        let body = if pretty { serde_json::to_string_pretty(&sent) } else { serde_json::to_string(&sent) };
        let parsed = open.parse(&body.expect("values are JSON")).expect("valid");
        let out = render("Open", "k", 1, None, 0, 0, &parsed.fields);
        prop_assert!(!out.contains(&b'\n'));
        let value: Value = serde_json::from_slice(&out).expect("rendered documents are JSON");
        let mut shown = value.as_object().expect("object").clone();
        for name in ["id", "version", "acl", "createdAt", "updatedAt", "name"] {
            shown.shift_remove(name);
        }
        // Compared as texts, so that the order of members counts.
        prop_assert_eq!(serde_json::to_string(&shown).expect("JSON"), serde_json::to_string(&sent).expect("JSON"));
        prop_assert_eq!(members_of(&parsed.fields), sent.len() + 1);
    }

    #[test]
    fn typed_values_come_back_as_they_went_in(count: i64, ratio in -1e300f64..1e300, name in "\\PC{0,12}|[\\x00-\\x7f]{0,12}",
        ms in 0i64..4_000_000_000_000, list in prop::collection::vec(any::<i64>(), 0..5)) {
        let all = Fixture::of("All");
        let at = time::format_datetime(ms * 1_000);
        let body = json!({"list": list, "at": at, "name": name, "ratio": ratio, "count": count});
        let parsed = all.parse(&body.to_string()).expect("valid");
        let out: Value = serde_json::from_slice(&render("All", "k", 1, None, 0, 0, &parsed.fields)).expect("valid");
        for (name, value) in body.as_object().expect("object") {
            prop_assert_eq!(&out[name], value);
        }
        prop_assert_eq!(&out["flag"], &Value::Null);
        // What was rendered can be sent back, as clients do, and changes nothing.
        let again = all.parse(&out.to_string()).expect("valid");
        prop_assert_eq!(again.fields, parsed.fields);
    }

    #[test]
    fn nothing_panics(body in "[{}\\[\\]:,\"\\\\u0-9a-f \n.eE+-]{0,40}", wrapped in "[{}\\[\\]:,\"\\\\u0-9tn]{0,12}") {
        let all = Fixture::of("All");
        let _ = all.parse(&body);
        for name in ["node", "flags", "list", "place", "object", "owner", "x"] {
            let _ = all.parse(&format!("{{\"{name}\":{wrapped}}}"));
        }
    }

    #[test]
    fn whatever_is_accepted_is_rendered_as_json(wrapped in "[{}\\[\\]:,\"\\\\u0-9tn ]{0,10}") {
        let open = Fixture::of("Open");
        if let Ok(parsed) = open.parse(&format!("{{\"x\":{wrapped},\"name\":\"{wrapped}\"}}")) {
            let out = render("Open", "k", 1, None, 0, 0, &parsed.fields);
            prop_assert!(serde_json::from_slice::<Value>(&out).is_ok());
        }
    }
}

fn members_of(fields: &[u8]) -> usize {
    members(fields).count()
}

/// Prints what a flat body of 1 KiB costs: `cargo nextest run -p document --run-ignored all --no-capture cost_of_a_flat_body`.
#[test]
#[ignore = "a measurement, not a test"]
fn cost_of_a_flat_body() {
    let all = Fixture::of("All");
    let open = Fixture::of("Open");
    let text = "x".repeat(700);
    let typed = json!({
        "id": "/db/All/3f2504e0-4f89-41d3-9a0c-0305e82c3301", "version": 3, "acl": {"read": {}, "write": {}},
        "createdAt": "2018-01-12T10:50:55.45Z", "updatedAt": "2018-01-12T10:50:55.45Z",
        "flag": true, "ratio": 1.5, "count": 123_456, "name": text, "at": "2018-01-12T10:50:55.45Z", "day": "2020-02-03",
        "owner": "/db/Animal/3f2504e0-4f89-41d3-9a0c-0305e82c3301",
    });
    let members: serde_json::Map<String, Value> = (0..10)
        .map(|at| (format!("field{at}"), Value::from("y".repeat(90))))
        .collect();
    let free = Value::Object(members).to_string();
    for (name, fixture, body) in [("typed", &all, typed.to_string()), ("open", &open, free)] {
        let rounds = 100_000u32;
        let start = std::time::Instant::now();
        for _ in 0..rounds {
            std::hint::black_box(fixture.parse(std::hint::black_box(&body))).expect("valid");
        }
        println!(
            "parse {name}, {} bytes: {:?}",
            body.len(),
            start.elapsed() / rounds
        );
        let fields = fixture.parse(&body).expect("valid").fields;
        let start = std::time::Instant::now();
        for _ in 0..rounds {
            std::hint::black_box(render(
                "All",
                "3f2504e0-4f89-41d3-9a0c-0305e82c3301",
                3,
                None,
                1_515_754_255_450_000,
                1_515_754_255_450_000,
                &fields,
            ));
        }
        println!("render {name}: {:?}", start.elapsed() / rounds);
    }
}
