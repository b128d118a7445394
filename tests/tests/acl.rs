//! Promise: a document is read or written only where its stored rules grant it, over HTTP and gRPC alike, at every node.

use document::id::object_id;
use futures::future::join_all;
use proto::v1;
use serde_json::{Value, json};
use tests::{Api, Checks, Cluster, grpc};
use tonic::Code;

#[tokio::test]
async fn object_rules() {
    let cluster = Cluster::dev().await;
    let root = cluster.root(0).await;
    let mut checks = Checks::new();
    checks
        .check("unreadable is like missing", unreadable(&cluster, &root))
        .await;
    checks
        .check("unwritable", unwritable(&cluster, &root))
        .await;
    checks.check("denied", denied(&cluster, &root)).await;
    checks
        .check("for those who are logged in", logged_in(&cluster, &root))
        .await;
    checks
        .check(
            "the stored rules decide, not those of the request",
            stored_rules(&cluster, &root),
        )
        .await;
    checks
        .check(
            "lists leave out what the caller may not read",
            lists(&cluster, &root),
        )
        .await;
    checks
        .check("a batch is refused as a whole", batches(&cluster, &root))
        .await;
    checks
        .check("rules go with their document", lifetime(&cluster, &root))
        .await;
    checks
        .check(
            "no write slips through while rules change",
            race(&cluster, &root),
        )
        .await;
    checks.check("the user root", users(&cluster, &root)).await;
    checks.finish();
}

/// Rules that leave `operations` to admins and the other one to everybody.
fn only_admins(operations: &[&str]) -> Value {
    let rules = |operation| {
        if operations.contains(&operation) {
            json!({ "/db/Role/1": "allow" })
        } else {
            json!({})
        }
    };
    json!({ "read": rules("read"), "write": rules("write") })
}

async fn protect(root: &Api, key: &str, acl: &Value) -> String {
    let path = object_id("Demo", key);
    root.put(&path)
        .json(&json!({ "secret": key, "acl": acl }))
        .expect(200)
        .await;
    path
}

async fn unreadable(cluster: &Cluster, root: &Api) {
    let path = protect(root, "unreadable", &only_admins(&["read"])).await;
    for node in cluster.all() {
        let anonymous = cluster.api(node);
        let refused = anonymous.get(&path).refused(404, "object_not_found").await;
        let missing = anonymous
            .get("/db/Demo/really-missing")
            .refused(404, "object_not_found")
            .await;
        let told =
            |answer: &tests::Answer| (answer.json()["className"].clone(), answer.header("etag"));
        assert_eq!(
            told(&refused),
            told(&missing),
            "nothing tells the two apart"
        );
        // Not by revalidation, and not from a local replica.
        anonymous
            .get(&path)
            .header("if-none-match", "\"1\"")
            .refused(404, "object_not_found")
            .await;
        anonymous
            .get(&path)
            .local()
            .refused(404, "object_not_found")
            .await;
        let mut documents = grpc::documents(&cluster.nodes[node].client);
        let read = documents
            .get(grpc::request(grpc::get("Demo", "unreadable"), None, None))
            .await;
        grpc::refused(read, Code::NotFound, "object_not_found");
        let token = root.token();
        let read = documents
            .get(grpc::request(grpc::get("Demo", "unreadable"), token, None))
            .await
            .expect("root reads");
        assert_eq!(read.into_inner().document.expect("a document").version, 1);
        cluster
            .api(node)
            .with_token(token.expect("root"))
            .get(&path)
            .expect(200)
            .await;
    }
}

async fn unwritable(cluster: &Cluster, root: &Api) {
    let path = protect(root, "unwritable", &only_admins(&["write"])).await;
    for node in cluster.all() {
        let anonymous = cluster.api(node);
        anonymous.get(&path).expect(200).await;
        let same_rules = json!({ "acl": only_admins(&["write"]) });
        anonymous
            .put(&path)
            .json(&same_rules)
            .refused(466, "permission_denied")
            .await;
        anonymous
            .put(&path)
            .if_match(1)
            .json(&same_rules)
            .refused(466, "permission_denied")
            .await;
        anonymous
            .put(&path)
            .header("if-match", "*")
            .json(&same_rules)
            .refused(466, "permission_denied")
            .await;
        // Other rules, or none, in the body are a change of the rules.
        anonymous
            .put(&path)
            .json(&json!({}))
            .refused(462, "invalid_permission_modification")
            .await;
        anonymous
            .delete(&path)
            .refused(466, "permission_denied")
            .await;
        anonymous
            .delete(&path)
            .if_match(1)
            .refused(466, "permission_denied")
            .await;
        let insert = anonymous
            .post("/db/Demo")
            .json(&json!({ "id": path }))
            .send()
            .await;
        assert!(matches!(insert.status, 409 | 466), "{}", insert.text());
        let mut documents = grpc::documents(&cluster.nodes[node].client);
        let body = same_rules.to_string();
        let put = documents
            .put(grpc::request(
                grpc::put("Demo", "unwritable", &body),
                None,
                None,
            ))
            .await;
        grpc::refused(put, Code::PermissionDenied, "permission_denied");
        let put = documents
            .put(grpc::request(
                grpc::put("Demo", "unwritable", "{}"),
                None,
                None,
            ))
            .await;
        grpc::refused(
            put,
            Code::PermissionDenied,
            "invalid_permission_modification",
        );
        let delete = documents
            .delete(grpc::request(
                grpc::delete("Demo", "unwritable"),
                None,
                None,
            ))
            .await;
        grpc::refused(delete, Code::PermissionDenied, "permission_denied");
    }
    let kept = root.get(&path).expect(200).await;
    assert_eq!(
        (kept.version(), &kept.json()["secret"]),
        (1, &json!("unwritable"))
    );
    assert_eq!(
        root.put(&path)
            .if_match(1)
            .json(&json!({}))
            .expect(200)
            .await
            .version(),
        2
    );
}

async fn denied(cluster: &Cluster, root: &Api) {
    let everybody = json!({ "read": { "*": "deny" }, "write": { "*": "deny" } });
    let path = protect(root, "denied", &everybody).await;
    cluster
        .api(1)
        .get(&path)
        .refused(404, "object_not_found")
        .await;
    cluster
        .api(1)
        .put(&path)
        .json(&json!({ "acl": everybody }))
        .refused(466, "permission_denied")
        .await;
    // An admin passes every check of an object.
    root.get(&path).expect(200).await;
    // A deny for someone else is no allow for nobody: the object stays public to all others.
    let other =
        json!({ "read": { "/db/User/other": "deny" }, "write": { "/db/User/other": "deny" } });
    let path = protect(root, "denied-other", &other).await;
    cluster.api(2).get(&path).expect(200).await;
    cluster
        .api(2)
        .put(&path)
        .json(&json!({ "acl": other }))
        .expect(200)
        .await;
}

async fn logged_in(cluster: &Cluster, root: &Api) {
    let named = json!({ "read": { "/db/User/2": "allow" }, "write": { "/db/User/2": "allow" } });
    let path = protect(root, "named", &named).await;
    cluster
        .api(0)
        .get(&path)
        .refused(404, "object_not_found")
        .await;
    let everyone_with_a_session =
        json!({ "read": { "/db/Role/3": "allow" }, "write": { "/db/Role/3": "allow" } });
    let path = protect(root, "loggedin", &everyone_with_a_session).await;
    cluster
        .api(1)
        .get(&path)
        .refused(404, "object_not_found")
        .await;
    cluster
        .api(1)
        .delete(&path)
        .refused(466, "permission_denied")
        .await;
    cluster.root(2).await.get(&path).expect(200).await;
}

async fn stored_rules(cluster: &Cluster, root: &Api) {
    let path = protect(root, "stored", &only_admins(&["write"])).await;
    for acl in [Value::Null, json!({}), json!({ "read": {}, "write": {} })] {
        let put = cluster
            .api(1)
            .put(&path)
            .json(&json!({ "acl": acl }))
            .send()
            .await;
        put.refused(462, "invalid_permission_modification");
    }
    assert_eq!(
        root.get(&path).send().await.json()["acl"],
        only_admins(&["write"])
    );
    // Who may write may change the rules, even to shut itself out.
    let open = object_id("Demo", "opened");
    cluster.api(0).put(&open).json(&json!({})).expect(200).await;
    cluster
        .api(0)
        .put(&open)
        .json(&json!({ "acl": only_admins(&["write"]) }))
        .expect(200)
        .await;
    let again = json!({ "acl": only_admins(&["write"]) });
    cluster
        .api(0)
        .put(&open)
        .json(&again)
        .refused(466, "permission_denied")
        .await;
}

async fn lists(cluster: &Cluster, root: &Api) {
    for number in 0..20 {
        let acl = if number % 2 == 0 {
            only_admins(&["read"])
        } else {
            Value::Null
        };
        protect(root, &format!("list-{number}"), &acl).await;
    }
    for node in cluster.all() {
        let origin = &cluster.nodes[node].client;
        let count = |found: Vec<Value>| {
            found
                .iter()
                .filter(|document| {
                    document["id"]
                        .as_str()
                        .is_some_and(|id| id.starts_with("/db/Demo/list-"))
                })
                .count()
        };
        assert_eq!(
            count(grpc::scan_all(origin, "Demo", None).await),
            10,
            "at node {node}"
        );
        assert_eq!(
            count(grpc::scan_all(origin, "Demo", root.token()).await),
            20,
            "at node {node}"
        );
        let ids = cluster
            .api(node)
            .get("/db/Demo/ids")
            .expect(200)
            .await
            .json();
        let ids: Vec<Value> = ids
            .as_array()
            .into_iter()
            .flatten()
            .map(|id| json!({ "id": id }))
            .collect();
        assert_eq!(count(ids), 10, "ids at node {node}");
    }
}

async fn batches(cluster: &Cluster, root: &Api) {
    protect(root, "{batch}locked", &only_admins(&["write"])).await;
    let same_rules = json!({ "acl": only_admins(&["write"]) }).to_string();
    let writes = vec![
        grpc::batch_put("Demo", "{batch}free", "{}"),
        grpc::batch_put("Demo", "{batch}locked", &same_rules),
    ];
    for node in cluster.all() {
        let mut documents = grpc::documents(&cluster.nodes[node].client);
        let message = v1::BatchRequest {
            writes: writes.clone(),
            ..Default::default()
        };
        let outcome = documents.batch(grpc::request(message, None, None)).await;
        grpc::refused(outcome, Code::PermissionDenied, "permission_denied");
        cluster
            .api(node)
            .get(&object_id("Demo", "{batch}free"))
            .expect(404)
            .await;
    }
}

async fn lifetime(cluster: &Cluster, root: &Api) {
    let path = protect(root, "lifetime", &only_admins(&["read", "write"])).await;
    root.delete(&path).expect(204).await;
    // A deleted document protects nothing, and its version still counts.
    let again = cluster
        .api(1)
        .put(&path)
        .json(&json!({ "mine": true }))
        .expect(200)
        .await;
    assert_eq!(again.version(), 3);
    cluster.api(2).get(&path).expect(200).await;
}

/// Anonymous writers race with root, who locks the document: what they got acknowledged came before the lock.
async fn race(cluster: &Cluster, root: &Api) {
    for round in 0..5 {
        let path = object_id("Demo", &format!("race-{round}"));
        root.put(&path)
            .json(&json!({ "by": "root" }))
            .expect(200)
            .await;
        let writers = (0..12).map(|writer| {
            let (api, path) = (cluster.api(writer % 3), path.clone());
            async move { api.put(&path).json(&json!({ "by": writer })).send().await }
        });
        let lock = root
            .put(&path)
            .json(&json!({ "by": "lock", "acl": only_admins(&["write"]) }))
            .send();
        let (lock, writes) = tokio::join!(lock, join_all(writers));
        let locked_at = lock.expect(200).version();
        for write in writes {
            match write.status {
                200 => assert!(
                    write.version() < locked_at,
                    "version {} after the lock {locked_at}",
                    write.version()
                ),
                // Their body has no rules, so after the lock it would change them.
                462 => {
                    write.refused(462, "invalid_permission_modification");
                }
                other => panic!("{other}: {}", write.text()),
            }
        }
        let end = root.get(&path).expect(200).await;
        assert_eq!(
            (end.version(), &end.json()["by"]),
            (locked_at, &json!("lock"))
        );
    }
}

async fn users(cluster: &Cluster, root: &Api) {
    let anonymous = cluster.api(1);
    for path in ["/db/User/1", "/db/Role/1"] {
        let put = anonymous
            .put(path)
            .json(&json!({ "name": "x", "users": ["/db/User/2"] }))
            .send()
            .await;
        assert!(put.status >= 400, "{path}: {}", put.text());
        let delete = anonymous.delete(path).send().await;
        assert!(delete.status >= 400, "{path}: {}", delete.text());
        root.get(path).expect(200).await;
    }
    cluster.root(2).await.get("/db/User/me").expect(200).await;
}
