//! Promise: the rules of a class hold for every call that touches its documents, over HTTP and gRPC alike, at every node.

use document::id::object_id;
use proto::v1::{self, batch_write};
use reqwest::Method;
use serde_json::{Value, json};
use tests::{Api, Checks, Cluster, grpc};
use tonic::{Code, Status};

const OPERATIONS: [&str; 5] = ["load", "insert", "update", "delete", "query"];

#[tokio::test]
async fn class_rules() {
    let cluster = Cluster::dev().await;
    let root = cluster.root(0).await;
    let classes: Vec<Value> = OPERATIONS
        .iter()
        .map(|operation| {
            json!({ "class": format!("/db/{}", name(operation)), "fields": {
                "n": { "name": "n", "type": "/db/Integer" },
            }, "acl": { (*operation): { "/db/Role/1": "allow" } } })
        })
        .collect();
    root.post("/schema").json(&json!(classes)).expect(200).await;
    let mut checks = Checks::new();
    checks.check("over HTTP", over_http(&cluster, &root)).await;
    checks.check("over gRPC", over_grpc(&cluster, &root)).await;
    checks
        .check("whole buckets", whole_buckets(&cluster, &root))
        .await;
    checks
        .check("changed rules", changed(&cluster, &root))
        .await;
    checks
        .check("before the object's rules", order(&cluster, &root))
        .await;
    checks.finish();
}

fn name(operation: &str) -> String {
    format!("Closed_{operation}")
}

/// A call of HTTP and the rights that it takes. `B` stands for the bucket; the document `k` is there, `x` is not.
struct Call {
    method: Method,
    path: &'static str,
    if_match: Option<&'static str>,
    body: &'static str,
    needs: &'static [&'static str],
}

fn calls() -> Vec<Call> {
    let call = |method, path, if_match, body, needs| Call {
        method,
        path,
        if_match,
        body,
        needs,
    };
    let inc = r#"{"$inc":{"n":1}}"#;
    vec![
        call(Method::GET, "/db/B/k", None, "", &["load"]),
        call(Method::HEAD, "/db/B/k", None, "", &["load"]),
        call(Method::POST, "/db/B", None, "{}", &["insert"]),
        call(Method::PUT, "/db/B/k", Some("*"), "{}", &["update"]),
        call(Method::PUT, "/db/B/k", None, "{}", &["insert", "update"]),
        call(Method::PUT, "/db/B/x", None, "{}", &["insert", "update"]),
        call(Method::POST, "/db/B/k", None, inc, &["update"]),
        call(
            Method::POST,
            "/db/B/k/n",
            None,
            r#"{"$inc":1}"#,
            &["update"],
        ),
        call(Method::DELETE, "/db/B/k", None, "", &["delete"]),
        call(Method::DELETE, "/db/B/x", None, "", &["delete"]),
        call(Method::GET, "/db/B/ids", None, "", &["query"]),
        call(Method::GET, "/db/B/query?q=%7B%7D", None, "", &["query"]),
        call(Method::POST, "/db/B/query", None, "{}", &["query"]),
        call(
            Method::GET,
            "/db/B/query?q=%7B%7D&count=0",
            None,
            "",
            &["query"],
        ),
        call(
            Method::GET,
            "/db/B/query?q=%7B%7D&eager=false",
            None,
            "",
            &["query"],
        ),
        call(Method::GET, "/db/B/count?q=%7B%7D", None, "", &["query"]),
        call(Method::POST, "/db/B/count", None, "{}", &["query"]),
        call(
            Method::POST,
            "/batch",
            None,
            r#"{"writes":[{"id":"/db/B/x","put":{},"if":{"absent":true}}]}"#,
            &["insert"],
        ),
        call(
            Method::POST,
            "/batch",
            None,
            r#"{"writes":[{"id":"/db/B/k","update":{"$inc":{"n":1}}}]}"#,
            &["update"],
        ),
        call(
            Method::POST,
            "/batch",
            None,
            r#"{"writes":[{"id":"/db/B/k","delete":true}]}"#,
            &["delete"],
        ),
        call(
            Method::POST,
            "/batch",
            None,
            r#"{"writes":[{"id":"/db/Demo/%7Bk%7D1","put":{}},{"id":"/db/B/%7Bk%7D2","put":{}}]}"#,
            &["insert", "update"],
        ),
    ]
}

async fn prepare(root: &Api, bucket: &str) {
    let path = object_id(bucket, "k");
    root.put(&path).json(&json!({ "n": 1 })).expect(200).await;
    root.delete(&object_id(bucket, "x")).expect(204).await;
}

async fn over_http(cluster: &Cluster, root: &Api) {
    for (at, operation) in OPERATIONS.into_iter().enumerate() {
        let bucket = name(operation);
        for (n, call) in calls().into_iter().enumerate() {
            let node = (at + n) % cluster.all().len();
            let anonymous = cluster.api(node);
            let admin = anonymous.with_token(root.token().expect("root"));
            for (is_admin, api) in [(false, &anonymous), (true, &admin)] {
                prepare(root, &bucket).await;
                let path = call.path.replace("/B", &format!("/{bucket}"));
                let body = call.body.replace("/B/", &format!("/{bucket}/"));
                let mut request = api.call(call.method.clone(), &path);
                if let Some(condition) = call.if_match {
                    request = request.header("if-match", condition);
                }
                if !body.is_empty() {
                    request = request.body(body);
                }
                let answer = request.send().await;
                let what = format!("{} {path}, admin: {is_admin}", call.method);
                if !is_admin && call.needs.contains(&operation) {
                    assert_eq!(answer.status, 466, "{what}: {}", answer.text());
                    if call.method != Method::HEAD {
                        answer.refused(466, "permission_denied");
                    }
                } else {
                    assert!(answer.status < 300, "{what}: {}", answer.text());
                }
            }
        }
    }
}

async fn over_grpc(cluster: &Cluster, root: &Api) {
    let operation = |operation| v1::BatchWrite {
        key: "k".to_owned(),
        operation: Some(operation),
        ..v1::BatchWrite::default()
    };
    for (at, closed) in OPERATIONS.into_iter().enumerate() {
        let bucket = name(closed);
        let mut documents = grpc::documents(&cluster.nodes[at % 3].client);
        prepare(root, &bucket).await;
        let mut outcomes: Vec<(&[&str], Result<(), Status>)> = Vec::new();
        let get = documents.get(grpc::get(&bucket, "k")).await;
        outcomes.push((&["load"], get.map(drop)));
        let insert = v1::PutRequest {
            precondition: grpc::absent(),
            ..grpc::put(&bucket, "x", "{}")
        };
        outcomes.push((&["insert"], documents.put(insert).await.map(drop)));
        let upsert = documents.put(grpc::put(&bucket, "k", "{}")).await;
        outcomes.push((&["insert", "update"], upsert.map(drop)));
        let update = v1::UpdateRequest {
            bucket: bucket.clone(),
            key: "k".to_owned(),
            operations: r#"{"$inc":{"n":1}}"#.into(),
            ..v1::UpdateRequest::default()
        };
        outcomes.push((&["update"], documents.update(update).await.map(drop)));
        let batch = |write: v1::BatchWrite| v1::BatchRequest {
            writes: vec![v1::BatchWrite {
                bucket: bucket.clone(),
                ..write
            }],
            ..v1::BatchRequest::default()
        };
        let writes: [(&[&str], batch_write::Operation); 3] = [
            (
                &["insert", "update"],
                batch_write::Operation::Put("{}".into()),
            ),
            (&["update"], batch_write::Operation::Update("{}".into())),
            (&["delete"], batch_write::Operation::Delete(true)),
        ];
        for (needs, write) in writes {
            let together = documents.batch(batch(operation(write))).await;
            outcomes.push((needs, together.map(drop)));
        }
        prepare(root, &bucket).await;
        let delete = documents.delete(grpc::delete(&bucket, "k")).await;
        outcomes.push((&["delete"], delete.map(drop)));
        let scan = v1::ScanRequest {
            bucket: bucket.clone(),
            ..v1::ScanRequest::default()
        };
        outcomes.push((&["query"], documents.scan(scan).await.map(drop)));
        let query = v1::QueryRequest {
            bucket: bucket.clone(),
            ..v1::QueryRequest::default()
        };
        outcomes.push((&["query"], documents.query(query).await.map(drop)));
        let count = v1::CountRequest {
            bucket: bucket.clone(),
            ..v1::CountRequest::default()
        };
        outcomes.push((&["query"], documents.count(count).await.map(drop)));
        for (n, (needs, outcome)) in outcomes.into_iter().enumerate() {
            if needs.contains(&closed) {
                grpc::refused(outcome, Code::PermissionDenied, "permission_denied");
            } else {
                outcome.unwrap_or_else(|status| panic!("call {n} of {bucket}: {status:?}"));
            }
        }
        // Each write for itself: the refusal is in its result.
        let apart = v1::BatchRequest {
            atomic: Some(false),
            ..batch(operation(batch_write::Operation::Delete(true)))
        };
        let results = documents.batch(apart).await.expect("results").into_inner();
        let refused = matches!(
            results.results[0].result,
            Some(v1::batch_result::Result::Error(ref error)) if error.code == "permission_denied"
        );
        assert_eq!(refused, closed == "delete");
    }
}

async fn whole_buckets(cluster: &Cluster, root: &Api) {
    let anonymous = cluster.api(1);
    for operation in OPERATIONS {
        let path = format!("/db/{}", name(operation));
        prepare(root, &name(operation)).await;
        for method in [Method::GET, Method::PUT, Method::DELETE] {
            let call = anonymous.call(method, &path).body("[]");
            call.refused(466, "permission_denied").await;
        }
        let exported = root.get(&path).expect(200).await;
        root.delete(&path).expect(200).await;
        let imported = root.put(&path).body(exported.body).expect(200).await;
        assert_eq!(imported.json()["failed"], 0, "{}", imported.text());
    }
    // Logs are not for changing, by nobody.
    let log = root.post("/db/logs.AppLog").body("{}").expect(201).await;
    let id = log.json()["id"].as_str().expect("an id").to_owned();
    for call in [
        root.put(&id).header("if-match", "*").body("{}"),
        root.post(&id).body(r#"{"$set":{"level":"x"}}"#),
        root.delete(&id),
        root.delete("/db/logs.AppLog"),
    ] {
        call.refused(466, "permission_denied").await;
    }
    anonymous.get(&id).refused(466, "permission_denied").await;
    root.get(&id).expect(200).await;
}

async fn changed(cluster: &Cluster, root: &Api) {
    let class = json!([{ "class": "/db/Changing", "fields": {} }]);
    root.post("/schema").json(&class).expect(200).await;
    let rules = |rules: Value| {
        let operation = json!([{ "operation": "updateClassAcl", "bucket": "/db/Changing", "acl": { "insert": rules } }]);
        root.post("/schema").json(&operation).expect(200)
    };
    // Acknowledged means that it counts at every node.
    for (rule, status) in [
        (json!({ "*": "deny" }), 466),
        (json!({}), 201),
        (json!({ "/db/Role/3": "allow" }), 466),
        (json!({ "/db/Role/3": "deny" }), 201),
        (json!({ "/db/User/1": "allow" }), 466),
    ] {
        rules(rule.clone()).await;
        for node in cluster.all() {
            let insert = cluster.api(node).post("/db/Changing").body("{}");
            let answer = insert.send().await;
            assert_eq!(answer.status, status, "{rule} at node {node}");
        }
    }
}

async fn order(cluster: &Cluster, root: &Api) {
    let bucket = name("load");
    let acl = json!({ "read": { "/db/Role/1": "allow" }, "write": {} });
    let path = object_id(&bucket, "hidden");
    root.put(&path)
        .json(&json!({ "acl": acl }))
        .expect(200)
        .await;
    let anonymous = cluster.api(2);
    // The same answer for what is there, what is hidden and what is missing: the class tells nothing about its objects.
    for path in [path, object_id(&bucket, "missing")] {
        anonymous.get(&path).refused(466, "permission_denied").await;
        let local = anonymous.get(&path).local();
        local.refused(466, "permission_denied").await;
    }
    // An unknown bucket stays one.
    anonymous
        .get("/db/Nowhere/x")
        .refused(461, "bucket_not_found")
        .await;
}
