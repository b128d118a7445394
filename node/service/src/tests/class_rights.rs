//! Class ACLs on data operations (contract sections 7.2 and 7.3): which call needs which right.

use std::time::Duration;

use document::schema::Operation;
use futures::future::{BoxFuture, FutureExt as _};
use proto::ErrorCode;

use super::body;
use crate::query::QueryRequest;
use crate::testing::{TestCluster, anonymous, keyed, soon};
use crate::{
    BatchOperation, BatchWrite, Condition, Consistency, Context, Error, Limits, ScanRange, Service,
};

const OPERATIONS: [Operation; 5] = [
    Operation::Load,
    Operation::Insert,
    Operation::Update,
    Operation::Delete,
    Operation::Query,
];

type Outcome = Result<(), Error>;

/// A call of the facade, and the rights that it takes. The document `k` is there, `n` is not.
struct Call {
    name: &'static str,
    needs: &'static [Operation],
    run: for<'a> fn(&'a Service, &'a Context, &'a str) -> BoxFuture<'a, Outcome>,
}

macro_rules! call {
    ($name:literal, $needs:expr, |$service:ident, $ctx:ident, $bucket:ident| $run:expr) => {
        Call {
            name: $name,
            needs: &$needs,
            run: |$service, $ctx, $bucket| async move { $run.await.map(|_| ()) }.boxed(),
        }
    };
}

fn write(bucket: &str, key: &str, condition: Condition, operation: BatchOperation) -> BatchWrite {
    BatchWrite {
        bucket: bucket.to_owned(),
        key: key.to_owned(),
        condition,
        operation,
    }
}

async fn each(service: &Service, ctx: &Context, write: BatchWrite) -> Outcome {
    let mut results = service.batch_each(ctx, vec![write]).await?;
    results.pop().expect("one result").map(|_| ())
}

fn calls() -> Vec<Call> {
    use Operation::{Delete, Insert, Load, Query, Update};
    vec![
        call!("get", [Load], |s, c, b| s.get(
            c,
            b,
            "k",
            Consistency::Linearizable
        )),
        call!("get bounded", [Load], |s, c, b| s.get(
            c,
            b,
            "k",
            Consistency::Bounded(Duration::from_secs(60))
        )),
        call!("get local", [Load], |s, c, b| s.get(
            c,
            b,
            "k",
            Consistency::Local
        )),
        call!("insert", [Insert], |s, c, b| s.put(
            c,
            b,
            Some("n"),
            body("{}"),
            Condition::Absent
        )),
        call!("insert with a key of the server", [Insert], |s, c, b| s
            .put(c, b, None, body("{}"), Condition::Absent)),
        call!("replace", [Update], |s, c, b| s.put(
            c,
            b,
            Some("k"),
            body("{}"),
            Condition::Exists
        )),
        call!("upsert", [Insert, Update], |s, c, b| s.put(
            c,
            b,
            Some("k"),
            body("{}"),
            Condition::None
        )),
        call!("update", [Update], |s, c, b| s.update(
            c,
            b,
            "k",
            body(r#"{"$inc":{"n":1}}"#),
            Condition::None
        )),
        call!("update of a field", [Update], |s, c, b| s.update_field(
            c,
            b,
            "k",
            "n",
            body(r#"{"$inc":1}"#),
            Condition::None
        )),
        call!("delete", [Delete], |s, c, b| s.delete(
            c,
            b,
            "k",
            Condition::None
        )),
        call!("delete of what is not there", [Delete], |s, c, b| s.delete(
            c,
            b,
            "n",
            Condition::None
        )),
        call!("scan", [Query], |s, c, b| s.scan(
            c,
            b,
            ScanRange::default()
        )),
        call!("query", [Query], |s, c, b| s.query(
            c,
            b,
            QueryRequest::default()
        )),
        call!("empty query", [Query], |s, c, b| s.query(
            c,
            b,
            QueryRequest {
                count: Some(0),
                ..QueryRequest::default()
            }
        )),
        call!("streamed query", [Query], |s, c, b| async {
            let mut query = s.open_query(c, b, QueryRequest::default()).await?;
            query.next_page(soon(), 10, 1_000).await
        }),
        call!("count", [Query], |s, c, b| s.count(
            c,
            b,
            QueryRequest::default()
        )),
        call!("insert in a batch", [Insert], |s, c, b| s.batch(
            c,
            vec![write(
                b,
                "n",
                Condition::Absent,
                BatchOperation::Put(body("{}"))
            )]
        )),
        call!("upsert in a batch", [Insert, Update], |s, c, b| s.batch(
            c,
            vec![write(
                b,
                "k",
                Condition::None,
                BatchOperation::Put(body("{}"))
            )]
        )),
        call!("update in a batch", [Update], |s, c, b| s.batch(
            c,
            vec![write(
                b,
                "k",
                Condition::None,
                BatchOperation::Update(body(r#"{"$inc":{"n":1}}"#))
            )]
        )),
        call!("delete in a batch", [Delete], |s, c, b| s.batch(
            c,
            vec![write(b, "k", Condition::None, BatchOperation::Delete)]
        )),
        call!("insert in a loose batch", [Insert], |s, c, b| each(
            s,
            c,
            write(b, "n", Condition::Absent, BatchOperation::Put(body("{}")))
        )),
        call!("update in a loose batch", [Update], |s, c, b| each(
            s,
            c,
            write(
                b,
                "k",
                Condition::None,
                BatchOperation::Update(body(r#"{"$inc":{"n":1}}"#))
            )
        )),
        call!("delete in a loose batch", [Delete], |s, c, b| each(
            s,
            c,
            write(b, "k", Condition::None, BatchOperation::Delete)
        )),
    ]
}

/// A class whose one operation is for admins.
fn class(operation: Operation) -> (String, String) {
    let name = format!("Only{operation}");
    let descriptor = format!(
        r#"{{"class":"/db/{name}","acl":{{"{operation}":{{"/db/Role/1":"allow"}}}},
            "fields":{{"n":{{"name":"n","type":"/db/Integer"}}}}}}"#
    );
    (name, descriptor)
}

#[tokio::test]
async fn each_call_takes_its_rights_and_no_others() {
    let cluster = TestCluster::with_nodes(2, Limits::default()).await;
    let root = cluster.root().await;
    let classes = OPERATIONS.map(class);
    let descriptors: Vec<&str> = classes.iter().map(|(_, text)| text.as_str()).collect();
    cluster
        .add_class(&format!("[{}]", descriptors.join(",")))
        .await;
    // Node 2 leads nothing: what it is asked, node 1 answers.
    let service = cluster.node(2);
    for (operation, (bucket, _)) in OPERATIONS.into_iter().zip(&classes) {
        for call in calls() {
            for (caller, ctx) in [("anonymous", anonymous()), ("root", root.clone())] {
                service
                    .put(&root, bucket, Some("k"), body("{}"), Condition::None)
                    .await
                    .expect("it is there");
                service
                    .delete(&root, bucket, "n", Condition::None)
                    .await
                    .expect("it is not there");
                let outcome = (call.run)(service, &ctx, bucket).await;
                let refused = caller != "root" && call.needs.contains(&operation);
                let expected = refused.then_some(ErrorCode::PermissionDenied);
                let code = outcome.as_ref().err().map(|error| error.code);
                assert_eq!(
                    code, expected,
                    "{caller}, {}, {bucket}: {outcome:?}",
                    call.name
                );
                if let Err(error) = outcome {
                    assert!(error.message.contains(bucket.as_str()), "{}", error.message);
                }
            }
        }
    }
}

#[tokio::test]
async fn a_changed_right_counts_from_its_acknowledgement_and_not_for_what_has_happened() {
    let cluster = TestCluster::with_nodes(2, Limits::default()).await;
    let root = cluster.root().await;
    let class = r#"[{"class":"/db/Box","fields":{}}]"#;
    cluster.add_class(class).await;
    let ctx = keyed(&anonymous(), "once");
    let insert = || {
        cluster
            .node(2)
            .put(&ctx, "Box", Some("k"), body("{}"), Condition::Absent)
    };
    let first = insert().await.expect("inserted");
    let closed =
        r#"[{"operation":"updateClassAcl","bucket":"/db/Box","acl":{"insert":{"*":"deny"}}}]"#;
    cluster
        .node(1)
        .add_schema(&root, body(closed))
        .await
        .expect("closed");
    let refused = cluster
        .node(2)
        .put(
            &anonymous(),
            "Box",
            Some("l"),
            body("{}"),
            Condition::Absent,
        )
        .await
        .expect_err("closed");
    assert_eq!(refused.code, ErrorCode::PermissionDenied);
    // A repetition hears what happened, not what would happen now.
    let again = insert().await.expect("it has happened");
    assert_eq!(again.document.body, first.document.body);
}

#[tokio::test]
async fn logs_are_not_changed_by_admins_either() {
    let cluster = TestCluster::start().await;
    let (service, root) = (&cluster.service, cluster.root().await);
    let bucket = "logs.AppLog";
    service
        .put(
            &anonymous(),
            bucket,
            Some("k"),
            body("{}"),
            Condition::Absent,
        )
        .await
        .expect("anybody logs");
    let get = |ctx: Context| async move {
        let got = service
            .get(&ctx, bucket, "k", Consistency::Linearizable)
            .await;
        got.map(|_| ()).map_err(|error| error.code)
    };
    assert_eq!(get(anonymous()).await, Err(ErrorCode::PermissionDenied));
    assert_eq!(get(root.clone()).await, Ok(()));
    let replaced = service
        .put(&root, bucket, Some("k"), body("{}"), Condition::Exists)
        .await;
    let deleted = service.delete(&root, bucket, "k", Condition::None).await;
    let truncated = service.truncate(&root, bucket, None).await;
    let codes = [
        replaced.err().map(|error| error.code),
        deleted.err().map(|error| error.code),
        truncated.err().map(|error| error.code),
    ];
    assert_eq!(codes, [Some(ErrorCode::PermissionDenied); 3]);
    assert_eq!(get(root).await, Ok(()));
}

#[tokio::test]
async fn indexes_are_made_and_dropped_by_those_who_may_change_the_class() {
    let cluster = TestCluster::with_nodes(2, Limits::default()).await;
    let root = cluster.root().await;
    let class = |name: &str, acl: &str| {
        let field = r#"{"n":{"name":"n","type":"/db/Integer"}}"#;
        format!(r#"{{"class":"/db/{name}","acl":{acl},"fields":{field}}}"#)
    };
    let everybody = r#"{"*":"allow"}"#;
    let classes = [
        class("Closed", "{}"),
        class("Adding", &format!(r#"{{"schemaAdd":{everybody}}}"#)),
        class("Replacing", &format!(r#"{{"schemaReplace":{everybody}}}"#)),
    ];
    cluster.add_class(&format!("[{}]", classes.join(","))).await;
    // Node 2 leads nothing: the metadata leader judges too.
    let service = cluster.node(2);
    let change = async |ctx: &Context, bucket: &str, drop: bool| {
        let index = format!(r#"{{"keys":[{{"n":"asc"}}],"drop":{drop}}}"#);
        let changed = service.change_index(ctx, bucket, body(&index)).await;
        changed.map_err(|error| error.code)
    };
    let refused = Err(ErrorCode::PermissionDenied);
    for (bucket, may_add, may_drop) in [
        ("Closed", refused, refused),
        ("Adding", Ok(()), refused),
        ("Replacing", refused, Ok(())),
    ] {
        assert_eq!(
            change(&anonymous(), bucket, false).await,
            may_add,
            "{bucket}"
        );
        assert_eq!(change(&root, bucket, false).await, Ok(()));
        assert_eq!(
            change(&anonymous(), bucket, true).await,
            may_drop,
            "{bucket}"
        );
        let dropped = service.drop_indexes(&anonymous(), bucket).await;
        assert_eq!(dropped.map_err(|error| error.code), may_drop, "{bucket}");
    }
}
