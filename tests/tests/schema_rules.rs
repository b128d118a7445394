//! Promise: each rule of schemas has its status, says what is wrong and how to go on, and a refused request changes nothing.

use reqwest::Method;
use serde_json::{Value, json};
use tests::{Cluster, Options};

/// A request that must be refused.
struct Refused {
    what: &'static str,
    method: Method,
    path: &'static str,
    body: Value,
    status: u16,
    code: &'static str,
    /// What the message must name.
    names: &'static str,
}

fn fields(fields: &[(&str, &str)]) -> Value {
    fields
        .iter()
        .map(|(name, ty)| {
            (
                (*name).to_owned(),
                json!({ "name": name, "type": format!("/db/{ty}") }),
            )
        })
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn class(name: &str, own: &[(&str, &str)]) -> Value {
    json!({ "class": format!("/db/{name}"), "fields": fields(own) })
}

fn sub_class(name: &str, parent: &str, own: &[(&str, &str)]) -> Value {
    let mut class = class(name, own);
    class["superClass"] = json!(format!("/db/{parent}"));
    class
}

fn embedded(name: &str, own: &[(&str, &str)]) -> Value {
    let mut class = class(name, own);
    class["embedded"] = json!(true);
    class
}

const INCOMPATIBLE: (u16, &str) = (469, "schema_not_compatible");
const EXISTS: (u16, &str) = (473, "type_already_exists");
const REFERENCED: (u16, &str) = (474, "type_still_referenced");
const STILL_THERE: (u16, &str) = (470, "schema_still_exists");
const UNKNOWN: (u16, &str) = (461, "bucket_not_found");
const BAD: (u16, &str) = (400, "bad_request");

fn refusals() -> Vec<Refused> {
    let refused = |what, method, path, body, (status, code): (u16, &'static str), names| Refused {
        what,
        method,
        path,
        body,
        status,
        code,
        names,
    };
    let post =
        |what, body, status, names| refused(what, Method::POST, "/schema", body, status, names);
    let put =
        |what, path, body, status, names| refused(what, Method::PUT, path, body, status, names);
    let drop =
        |what, path, status, names| refused(what, Method::DELETE, path, Value::Null, status, names);
    vec![
        post(
            "another type",
            json!([class("Base", &[("a", "Integer")])]),
            INCOMPATIBLE,
            "Base.a",
        ),
        post(
            "another type of a collection",
            json!([class("Base", &[("list", "collection.Set[/db/String]")])]),
            INCOMPATIBLE,
            "Base.list",
        ),
        put(
            "another type by replacement",
            "/schema/Base",
            class("Base", &[("a", "Double")]),
            INCOMPATIBLE,
            "Base.a",
        ),
        post(
            "another superclass",
            json!([sub_class("Child", "User", &[])]),
            INCOMPATIBLE,
            "Child",
        ),
        post(
            "an entity becomes embedded",
            json!([embedded("Base", &[])]),
            INCOMPATIBLE,
            "Base",
        ),
        post(
            "an embedded class becomes an entity",
            json!([{ "class": "/db/Part", "embedded": false, "fields": {} }]),
            INCOMPATIBLE,
            "Part",
        ),
        post(
            "a field of the superclass, otherwise",
            json!([class("Child", &[("a", "Integer")])]),
            INCOMPATIBLE,
            "Child.a",
        ),
        post(
            "a field that a subclass has",
            json!([class("Base", &[("own", "String")])]),
            INCOMPATIBLE,
            "Child.own",
        ),
        post(
            "a system field, otherwise",
            json!([class("User", &[("username", "Integer")])]),
            INCOMPATIBLE,
            "User",
        ),
        post(
            "a field of Object",
            json!([class("Object", &[("x", "String")])]),
            INCOMPATIBLE,
            "Object",
        ),
        drop("a system class", "/schema/User", INCOMPATIBLE, "User"),
        put(
            "all but what is referenced",
            "/schema",
            json!([sub_class("Child", "Base", &[])]),
            REFERENCED,
            "Base",
        ),
        drop("a superclass", "/schema/Base", REFERENCED, "Child"),
        drop(
            "the type of a field",
            "/schema/Part",
            REFERENCED,
            "Base.part",
        ),
        put(
            "a class twice",
            "/schema",
            json!([class("Twice", &[]), class("Twice", &[])]),
            EXISTS,
            "Twice",
        ),
        post(
            "a removed field, otherwise",
            json!([class("Base", &[("gone", "Integer")])]),
            STILL_THERE,
            "Base.gone",
        ),
        put(
            "a removed field by replacement",
            "/schema/Base",
            class("Base", &[("gone", "Date")]),
            STILL_THERE,
            "another name",
        ),
        post(
            "a removed field in a subclass",
            json!([class("Child", &[("gone", "Date")])]),
            STILL_THERE,
            "Child.gone",
        ),
        drop("an unknown class", "/schema/Nowhere", UNKNOWN, "Nowhere"),
        refused(
            "an unknown class is read",
            Method::GET,
            "/schema/Nowhere",
            Value::Null,
            UNKNOWN,
            "Nowhere",
        ),
        post(
            "rules of an unknown class",
            json!([{ "operation": "updateClassAcl", "bucket": "/db/Nowhere", "acl": {} }]),
            UNKNOWN,
            "Nowhere",
        ),
        post(
            "an unknown type",
            json!([class("New", &[("a", "Nowhere")])]),
            BAD,
            "Nowhere",
        ),
        post(
            "collections in collections",
            json!([class(
                "New",
                &[("a", "collection.List[/db/collection.Set[/db/String]]")]
            )]),
            BAD,
            "New.a",
        ),
        post(
            "an unknown collection",
            json!([class("New", &[("a", "collection.Bag[/db/String]")])]),
            BAD,
            "New.a",
        ),
        post(
            "an unknown superclass",
            json!([sub_class("New", "Nowhere", &[])]),
            BAD,
            "Nowhere",
        ),
        post(
            "an embedded superclass",
            json!([sub_class("New", "Part", &[])]),
            BAD,
            "New",
        ),
        post(
            "a circle",
            json!([sub_class("One", "Two", &[]), sub_class("Two", "One", &[])]),
            BAD,
            "superclass",
        ),
        post("no class", json!([{ "fields": {} }]), BAD, "class"),
        post(
            "no text for a class",
            json!([{ "class": 7, "fields": {} }]),
            BAD,
            "element 0",
        ),
        post(
            "a bad name",
            json!([class("Bad Name", &[])]),
            BAD,
            "Bad Name",
        ),
        post(
            "a bad field name",
            json!([class("New", &[("a.b", "String")])]),
            BAD,
            "a.b",
        ),
        post(
            "an internal field",
            json!([class("New", &[("_x", "String")])]),
            BAD,
            "_x",
        ),
        post(
            "a field without type",
            json!([{ "class": "/db/New", "fields": { "a": { "name": "a" } } }]),
            BAD,
            "type",
        ),
        post(
            "a field under another name",
            json!([{ "class": "/db/New", "fields": { "a": { "name": "b", "type": "/db/String" } } }]),
            BAD,
            "a",
        ),
        post(
            "an unknown right",
            json!([{ "class": "/db/New", "fields": {}, "acl": { "fly": {} } }]),
            BAD,
            "fly",
        ),
        post(
            "rights of documents for an embedded class",
            json!([{ "class": "/db/New", "embedded": true, "fields": {}, "acl": { "load": { "*": "deny" } } }]),
            BAD,
            "load",
        ),
        post(
            "a rule that says nothing",
            json!([{ "class": "/db/New", "fields": {}, "acl": { "load": { "/db/Role/1": "maybe" } } }]),
            BAD,
            "maybe",
        ),
        post(
            "an unknown operation",
            json!([{ "operation": "renameField", "bucket": "/db/Base" }]),
            BAD,
            "renameField",
        ),
        put(
            "another class than the address says",
            "/schema/Base",
            class("Other", &[]),
            BAD,
            "Other",
        ),
        put(
            "an operation in a replacement",
            "/schema",
            json!([{ "operation": "updateClassAcl", "bucket": "/db/Base", "acl": {} }]),
            BAD,
            "updateClassAcl",
        ),
        post(
            "all or nothing",
            json!([class("Good", &[]), class("Base", &[("a", "Integer")])]),
            INCOMPATIBLE,
            "Base.a",
        ),
    ]
}

#[tokio::test]
async fn every_rule_of_schemas_has_its_status() {
    let cluster = Cluster::start(Options {
        nodes: 1,
        replicas: 1,
        shards: 2,
        ..Options::default()
    })
    .await;
    let root = cluster.root(0).await;
    let base = [
        ("a", "String"),
        ("list", "collection.List[/db/String]"),
        ("part", "Part"),
        ("gone", "String"),
    ];
    let classes = json!([
        class("Base", &base),
        sub_class("Child", "Base", &[("own", "Integer")]),
        embedded("Part", &[("n", "Integer")]),
    ]);
    root.post("/schema").json(&classes).expect(200).await;
    root.put("/db/Base/k")
        .json(&json!({ "gone": "old" }))
        .expect(200)
        .await;
    root.put("/schema/Base")
        .json(&class("Base", &base[..3]))
        .expect(200)
        .await;
    let before = root.get("/schema").expect(200).await.json();
    for refused in refusals() {
        let mut call = root.call(refused.method, refused.path);
        if !refused.body.is_null() {
            call = call.json(&refused.body);
        }
        let answer = call.send().await;
        let told = (answer.status, answer.json()["code"].clone());
        let expected = (refused.status, json!(refused.code));
        assert_eq!(told, expected, "{}: {}", refused.what, answer.text());
        let message = answer.json()["message"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        assert!(
            message.contains(refused.names),
            "{}: {message}",
            refused.what
        );
        let after = root.get("/schema").expect(200).await.json();
        assert_eq!(after, before, "{} changes nothing", refused.what);
    }
    for body in ["", "[{", "[1", "\u{0}", "[{\"class\":}]"] {
        let call = root.post("/schema").body(body);
        call.refused(471, "syntax_error").await;
    }
    // With its old type the field is back, and so are its values.
    let again = class("Base", &[("gone", "String")]);
    root.post("/schema").json(&json!([again])).expect(200).await;
    let stored = root.get("/db/Base/k").expect(200).await.json();
    assert_eq!(stored["gone"], json!("old"));
}
