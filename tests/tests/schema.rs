//! Promise: the schema is one, changed by root alone, and what is acknowledged holds at once on every node and shard.

use document::id::object_id;
use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use tests::{Answer, Api, Checks, Cluster, Options};

#[tokio::test]
async fn schema_changes() {
    let cluster = Cluster::start(Options {
        shards: 16,
        ..Options::default()
    })
    .await;
    let root = cluster.root(0).await;
    let mut checks = Checks::new();
    checks
        .check("what every database has", system_classes(&cluster))
        .await;
    checks
        .check("only root changes it", refused_to_others(&cluster, &root))
        .await;
    checks
        .check(
            "an acknowledged class is writable at once everywhere",
            fenced(&cluster, &root),
        )
        .await;
    checks
        .check("POST adds and never takes away", additive(&root))
        .await;
    checks
        .check("refused changes change nothing", refused_changes(&root))
        .await;
    checks
        .check("rules of a class", class_rules(&cluster, &root))
        .await;
    checks
        .check("replacing one class", replace_class(&cluster, &root))
        .await;
    checks
        .check(
            "dropping a class takes its documents along",
            drop_class(&cluster, &root),
        )
        .await;
    checks
        .check("changes at two nodes at once", concurrent(&cluster))
        .await;
    checks
        .check("replacing the whole schema", replace_all(&cluster, &root))
        .await;
    checks.finish();
}

fn class(name: &str, fields: &[(&str, &str)]) -> Value {
    let fields: serde_json::Map<String, Value> = fields
        .iter()
        .enumerate()
        .map(|(order, (field, ty))| {
            (
                (*field).to_owned(),
                json!({ "name": field, "type": ty, "order": order }),
            )
        })
        .collect();
    json!({ "class": format!("/db/{name}"), "superClass": "/db/Object", "acl": {}, "fields": fields })
}

fn find<'a>(schema: &'a Value, name: &str) -> Option<&'a Value> {
    schema
        .as_array()?
        .iter()
        .find(|class| class["class"] == format!("/db/{name}"))
}

/// Sorted: the order of members follows the `order` of the fields, which says nothing here.
fn field_names(class: &Value) -> Vec<&str> {
    let mut names: Vec<&str> = class["fields"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, _)| name.as_str())
        .collect();
    names.sort_unstable();
    names
}

async fn schema(api: &Api) -> Value {
    api.get("/schema").expect(200).await.json()
}

async fn add(root: &Api, classes: Value) -> Answer {
    root.post("/schema").json(&classes).send().await
}

async fn system_classes(cluster: &Cluster) {
    let schema = schema(&cluster.api(0)).await;
    for name in ["Object", "User", "Role", "Device", "logs.AppLog", "Demo"] {
        let class = find(&schema, name).unwrap_or_else(|| panic!("no class {name} in {schema}"));
        assert!(
            class["fields"].is_object(),
            "a descriptor without fields breaks connect: {class}"
        );
        for (member, field) in class["fields"].as_object().into_iter().flatten() {
            assert_eq!(field["name"], member.as_str());
            assert!(
                !member.starts_with('_'),
                "{name} shows the internal field {member}"
            );
        }
        let known = [
            "load",
            "insert",
            "update",
            "delete",
            "query",
            "schemaAdd",
            "schemaReplace",
            "schemaSubclass",
        ];
        for operation in class["acl"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(operation, _)| operation)
        {
            assert!(
                known.contains(&operation.as_str()),
                "{operation} breaks connect"
            );
        }
    }
    let object = find(&schema, "Object").expect("checked");
    assert_eq!(object["superClass"], Value::Null);
    assert_eq!(
        field_names(object),
        ["acl", "createdAt", "id", "updatedAt", "version"]
    );
    let open = &find(&schema, "Demo").expect("checked")["metadata"]["larder.open"];
    assert_eq!(open, "true");
    let one = cluster.api(1).get("/schema/User").expect(200).await.json();
    assert_eq!(Some(&one), find(&schema, "User"));
    cluster
        .api(1)
        .get("/schema/Nothing")
        .refused(461, "bucket_not_found")
        .await;
}

async fn refused_to_others(cluster: &Cluster, root: &Api) {
    add(root, json!([class("Guarded", &[])])).await.expect(200);
    let before = schema(root).await;
    let body = json!([class("Intruder", &[])]);
    let one = class("Guarded", &[("name", "/db/String")]);
    for node in cluster.all() {
        let anonymous = cluster.api(node);
        for (method, path, body) in [
            (Method::POST, "/schema", Some(&body)),
            (Method::PUT, "/schema", Some(&body)),
            (Method::POST, "/schema/Guarded", Some(&one)),
            (Method::PUT, "/schema/Guarded", Some(&one)),
            (Method::DELETE, "/schema/Guarded", None),
        ] {
            let mut call = anonymous.call(method, path);
            if let Some(body) = body {
                call = call.json(body);
            }
            call.refused(466, "permission_denied").await;
        }
        assert_eq!(schema(&anonymous).await, before, "at node {node}");
    }
}

/// Each shard must know a class when its creation is acknowledged, so each shard is written to, by each node.
async fn fenced(cluster: &Cluster, root: &Api) {
    for round in 0..3 {
        let name = format!("Fenced{round}");
        let answer = add(root, json!([class(&name, &[("n", "/db/Integer")])]))
            .await
            .expect(200);
        assert!(
            find(&answer.json(), &name).is_some(),
            "the answer is the whole schema"
        );
        assert!(
            find(&answer.json(), "User").is_some(),
            "the answer is the whole schema"
        );
        let puts = cluster
            .all()
            .flat_map(|node| (0..40).map(move |key| (node, key)))
            .map(|(node, key)| {
                let (api, path) = (
                    cluster.api(node),
                    object_id(&name, &format!("{node}-{key}")),
                );
                async move {
                    api.put(&path)
                        .json(&json!({ "n": key }))
                        .expect(200)
                        .await
                        .version()
                }
            });
        let versions = join_all(puts).await;
        assert!(versions.iter().all(|version| *version == 1));
        // A later field holds at once as well.
        add(root, json!([class(&name, &[("text", "/db/String")])]))
            .await
            .expect(200);
        let puts = cluster
            .all()
            .flat_map(|node| (0..20).map(move |key| (node, key)))
            .map(|(node, key)| {
                let (api, path) = (
                    cluster.api(node),
                    object_id(&name, &format!("{node}-{key}")),
                );
                async move {
                    api.put(&path)
                        .json(&json!({ "text": 1 }))
                        .refused(463, "invalid_type_value")
                        .await;
                    let stored = api
                        .put(&path)
                        .json(&json!({ "text": "t" }))
                        .expect(200)
                        .await;
                    assert_eq!(stored.json()["text"], "t");
                }
            });
        join_all(puts).await;
    }
}

async fn additive(root: &Api) {
    add(
        root,
        json!([class("Grow", &[("a", "/db/String"), ("b", "/db/Integer")])]),
    )
    .await
    .expect(200);
    let answer = add(root, json!([class("Grow", &[("c", "/db/Boolean")])]))
        .await
        .expect(200)
        .json();
    assert_eq!(
        field_names(find(&answer, "Grow").expect("there")),
        ["a", "b", "c"],
        "an omission is no removal"
    );
    root.post("/schema/Grow")
        .json(&class("Grow", &[("d", "/db/Date")]))
        .expect(200)
        .await;
    let grown = root.get("/schema/Grow").expect(200).await.json();
    assert_eq!(field_names(&grown), ["a", "b", "c", "d"]);
    // The same again changes nothing and is no error.
    assert_eq!(
        add(root, json!([class("Grow", &[("a", "/db/String")])]))
            .await
            .expect(200)
            .json(),
        schema(root).await
    );
    assert_eq!(root.get("/schema/Grow").send().await.json(), grown);
    // A closed class drops members that it does not know.
    let stored = root
        .put("/db/Grow/1")
        .json(&json!({ "a": "x", "unknown": 1 }))
        .expect(200)
        .await
        .json();
    assert_eq!((&stored["a"], stored.get("unknown")), (&json!("x"), None));
}

async fn refused_changes(root: &Api) {
    add(root, json!([class("Firm", &[("a", "/db/String")])]))
        .await
        .expect(200);
    let before = schema(root).await;
    let retyped = class("Firm", &[("a", "/db/Integer")]);
    add(root, json!([class("AllOrNothing", &[]), retyped]))
        .await
        .refused(469, "schema_not_compatible");
    add(
        root,
        json!([{ "operation": "noSuchOperation", "bucket": "/db/Firm" }]),
    )
    .await
    .refused(400, "bad_request");
    add(root, json!([class("Dangling", &[("a", "/db/Nowhere")])]))
        .await
        .refused(400, "bad_request");
    add(root, json!([class("Bad Name", &[])]))
        .await
        .refused(400, "bad_request");
    add(root, json!([{ "fields": {} }]))
        .await
        .refused(400, "bad_request");
    root.post("/schema")
        .body("[{")
        .refused(471, "syntax_error")
        .await;
    let mut misnamed = class("Misnamed", &[("a", "/db/String")]);
    misnamed["fields"]["a"]["name"] = json!("b");
    add(root, json!([misnamed]))
        .await
        .refused(400, "bad_request");
    let mut orphan = class("Orphan", &[]);
    orphan["superClass"] = json!("/db/Nowhere");
    add(root, json!([orphan])).await.refused(400, "bad_request");
    assert_eq!(schema(root).await, before);
    root.put("/db/AllOrNothing/1")
        .json(&json!({}))
        .refused(461, "bucket_not_found")
        .await;
}

async fn class_rules(cluster: &Cluster, root: &Api) {
    add(root, json!([class("Ruled", &[])])).await.expect(200);
    let rules = json!({ "load": { "/db/Role/1": "allow" } });
    let mut with_rules = class("Ruled", &[]);
    with_rules["acl"] = rules.clone();
    let answer = add(root, json!([with_rules])).await.expect(200).json();
    assert_eq!(
        find(&answer, "Ruled").expect("there")["acl"].get("load"),
        None,
        "POST leaves existing rules alone"
    );
    let change = json!([{ "operation": "updateClassAcl", "bucket": "/db/Ruled", "acl": rules }]);
    let answer = add(root, change.clone()).await.expect(200).json();
    assert_eq!(
        find(&answer, "Ruled").expect("there")["acl"]["load"],
        rules["load"]
    );
    add(&cluster.api(0), change)
        .await
        .refused(466, "permission_denied");
}

async fn replace_class(cluster: &Cluster, root: &Api) {
    add(
        root,
        json!([class("Swap", &[("a", "/db/String"), ("b", "/db/String")])]),
    )
    .await
    .expect(200);
    root.put("/db/Swap/1")
        .json(&json!({ "a": "x", "b": "y" }))
        .expect(200)
        .await;
    root.put("/schema/Swap")
        .json(&class("Swap", &[("b", "/db/String")]))
        .expect(200)
        .await;
    let now = cluster.api(1).get("/schema/Swap").expect(200).await.json();
    assert_eq!(field_names(&now), ["b"]);
    let stored = cluster
        .api(2)
        .put("/db/Swap/2")
        .json(&json!({ "a": "x", "b": "y" }))
        .expect(200)
        .await
        .json();
    assert_eq!((stored.get("a"), &stored["b"]), (None, &json!("y")));
    root.put("/schema/Absent")
        .json(&class("Other", &[]))
        .expect(400)
        .await;
}

async fn drop_class(cluster: &Cluster, root: &Api) {
    add(
        root,
        json!([
            class("Gone", &[("n", "/db/Integer")]),
            class("Keeps", &[("gone", "/db/Gone")])
        ]),
    )
    .await
    .expect(200);
    let paths: Vec<String> = (0..32)
        .map(|key| object_id("Gone", &key.to_string()))
        .collect();
    for path in &paths {
        root.put(path).json(&json!({ "n": 1 })).expect(200).await;
    }
    root.delete("/schema/Gone")
        .refused(474, "type_still_referenced")
        .await;
    root.get(&paths[0]).expect(200).await;
    root.put("/schema/Keeps")
        .json(&class("Keeps", &[]))
        .expect(200)
        .await;
    root.delete("/schema/Gone").expect(204).await;
    for node in cluster.all() {
        let api = cluster.api(node);
        api.get("/schema/Gone")
            .refused(461, "bucket_not_found")
            .await;
        for path in &paths {
            api.get(path).refused(461, "bucket_not_found").await;
            api.put(path)
                .json(&json!({}))
                .refused(461, "bucket_not_found")
                .await;
        }
    }
    root.delete("/schema/Gone")
        .refused(461, "bucket_not_found")
        .await;
    // A class of the same name is another one: nothing of the first shines through.
    add(root, json!([class("Gone", &[("n", "/db/Integer")])]))
        .await
        .expect(200);
    for (index, path) in paths.iter().enumerate() {
        cluster
            .api(index % 3)
            .get(path)
            .refused(404, "object_not_found")
            .await;
    }
    cluster
        .api(1)
        .put(&paths[0])
        .json(&json!({ "n": 2 }))
        .expect(200)
        .await;
    let system = root.delete("/schema/User").send().await;
    assert!(
        system.status >= 400,
        "a system class stays: {}",
        system.status
    );
}

async fn concurrent(cluster: &Cluster) {
    let mut names = Vec::new();
    let mut changes = Vec::new();
    for node in cluster.all() {
        let root = cluster.root(node).await;
        for number in 0..4 {
            let name = format!("Both{node}x{number}");
            names.push(name.clone());
            let root = root.clone();
            changes.push(async move {
                add(&root, json!([class(&name, &[]), class("BothShare", &[])]))
                    .await
                    .expect(200)
            });
        }
    }
    join_all(changes).await;
    for node in cluster.all() {
        let schema = schema(&cluster.api(node)).await;
        for name in &names {
            assert!(
                find(&schema, name).is_some(),
                "{name} was acknowledged and is missing at node {node}"
            );
            cluster
                .api(node)
                .put(&object_id(name, "k"))
                .json(&json!({}))
                .expect(200)
                .await;
        }
    }
}

/// Last, because it drops what the checks before made.
async fn replace_all(cluster: &Cluster, root: &Api) {
    root.put("/schema")
        .json(&json!([class("Only", &[("a", "/db/String")])]))
        .expect(200)
        .await;
    for node in cluster.all() {
        let schema = schema(&cluster.api(node)).await;
        assert_eq!(find(&schema, "Demo"), None);
        assert_eq!(find(&schema, "Grow"), None);
        for name in ["Object", "User", "Role", "Device", "logs.AppLog", "Only"] {
            assert!(find(&schema, name).is_some(), "{name} at node {node}");
        }
    }
    cluster
        .api(1)
        .get("/db/Demo/k")
        .refused(461, "bucket_not_found")
        .await;
    cluster
        .api(2)
        .put("/db/Only/1")
        .json(&json!({ "a": "x" }))
        .expect(200)
        .await;
    // Root and its role live on: the next log-in needs them.
    cluster.root(2).await.get("/db/User/me").expect(200).await;
}
