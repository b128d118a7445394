//! Object ACLs, new users, reserved keys and read-only fields (contract sections 7 and 8.1).

use proto::ErrorCode;
use serde_json::json as value;

use super::{body, json, put};
use crate::testing::{PASSWORD, TestCluster, anonymous};
use crate::{BatchOperation, BatchWrite, Condition, Consistency};

const ROOT_ONLY: &str =
    r#"{"a":1,"acl":{"read":{"/db/User/1":"allow"},"write":{"/db/User/1":"allow"}}}"#;
const READABLE: &str = r#"{"a":1,"acl":{"read":{},"write":{"/db/User/1":"allow"}}}"#;

#[tokio::test]
async fn an_unreadable_document_is_like_a_missing_one() {
    let cluster = TestCluster::start().await;
    let root = cluster.root().await;
    put(&cluster, &root, "k", ROOT_ONLY, Condition::Absent)
        .await
        .expect("inserted");
    let hidden = cluster
        .service
        .get(&anonymous(), "Demo", "k", Consistency::Linearizable)
        .await
        .expect_err("hidden");
    let missing = cluster
        .service
        .get(&anonymous(), "Demo", "l", Consistency::Linearizable)
        .await
        .expect_err("missing");
    assert_eq!(
        (hidden.code, missing.code),
        (ErrorCode::ObjectNotFound, ErrorCode::ObjectNotFound)
    );
    assert_eq!(hidden.message.replace("/k", "/l"), missing.message);
    cluster
        .service
        .get(&root, "Demo", "k", Consistency::Linearizable)
        .await
        .expect("root reads it");
}

#[tokio::test]
async fn writes_need_the_right_on_the_stored_document() {
    let cluster = TestCluster::start().await;
    let root = cluster.root().await;
    put(&cluster, &root, "k", ROOT_ONLY, Condition::Absent)
        .await
        .expect("inserted");
    for condition in [
        Condition::None,
        Condition::Exists,
        Condition::Version(1),
        Condition::Version(9),
    ] {
        let error = put(&cluster, &anonymous(), "k", "{}", condition)
            .await
            .expect_err("denied");
        assert_eq!(error.code, ErrorCode::PermissionDenied, "{condition:?}");
        let error = cluster
            .service
            .delete(&anonymous(), "Demo", "k", condition)
            .await
            .expect_err("denied");
        assert_eq!(error.code, ErrorCode::PermissionDenied, "{condition:?}");
    }
    put(&cluster, &root, "k", "{}", Condition::Version(1))
        .await
        .expect("root writes it");
}

#[tokio::test]
async fn who_can_read_is_told_that_the_acl_is_the_matter() {
    let cluster = TestCluster::start().await;
    let root = cluster.root().await;
    put(&cluster, &root, "k", READABLE, Condition::Absent)
        .await
        .expect("inserted");
    let opened = put(&cluster, &anonymous(), "k", "{}", Condition::None)
        .await
        .expect_err("denied");
    assert_eq!(opened.code, ErrorCode::InvalidPermissionModification);
    let same = put(&cluster, &anonymous(), "k", READABLE, Condition::None)
        .await
        .expect_err("denied");
    assert_eq!(same.code, ErrorCode::PermissionDenied);
}

#[tokio::test]
async fn a_new_user_belongs_to_itself() {
    let cluster = TestCluster::start().await;
    let service = &cluster.service;
    let text = r#"{"acl":{"read":{},"write":{}}}"#;
    let made = service
        .put(&anonymous(), "User", None, body(text), Condition::Absent)
        .await
        .expect("inserted");
    let id = format!("/db/User/{}", made.document.key);
    let own = value!({ "read": { &id: "allow" }, "write": { &id: "allow" } });
    assert_eq!(json(&made.document.body)["acl"], own);
    // By an upsert, too, whose key only admins choose.
    let root = cluster.root().await;
    let upserted = service
        .put(&root, "User", Some("u"), body("{}"), Condition::None)
        .await
        .expect("inserted");
    assert_eq!(
        json(&upserted.document.body)["acl"]["write"],
        value!({ "/db/User/u": "allow" })
    );
    let error = service
        .put(&anonymous(), "User", Some("u"), body("{}"), Condition::None)
        .await
        .expect_err("not theirs");
    assert_eq!(error.code, ErrorCode::PermissionDenied);
    // An ACL that was named stays.
    let named = r#"{"acl":{"read":{"/db/Role/3":"allow"},"write":{}}}"#;
    let made = service
        .put(&anonymous(), "User", None, body(named), Condition::Absent)
        .await
        .expect("inserted");
    assert_eq!(
        json(&made.document.body)["acl"]["read"],
        value!({ "/db/Role/3": "allow" })
    );
}

#[tokio::test]
async fn keys_of_new_users_and_roles_are_chosen_by_admins() {
    let cluster = TestCluster::start().await;
    let root = cluster.root().await;
    for bucket in ["User", "Role"] {
        let id = format!(r#"{{"id":"/db/{bucket}/20"}}"#);
        for (key, text, condition, code) in [
            (
                Some("9"),
                "{}",
                Condition::Absent,
                ErrorCode::PermissionDenied,
            ),
            (Some("9"), "{}", Condition::None, ErrorCode::ObjectOutOfDate),
            // A name that some rule may have been given already, or in the body.
            (
                Some("20"),
                "{}",
                Condition::Absent,
                ErrorCode::PermissionDenied,
            ),
            (None, &id, Condition::Absent, ErrorCode::PermissionDenied),
            (None, &id, Condition::None, ErrorCode::ObjectOutOfDate),
        ] {
            let refused = cluster
                .service
                .put(&anonymous(), bucket, key, body(text), condition)
                .await;
            let code_of = refused.map_err(|error| error.code);
            assert_eq!(code_of, Err(code), "{bucket} {key:?} {condition:?}");
        }
        let write = BatchWrite {
            bucket: bucket.to_owned(),
            key: "20".to_owned(),
            condition: Condition::Absent,
            operation: BatchOperation::Put(body("{}")),
        };
        let batch = cluster.service.batch(&anonymous(), vec![write]).await;
        let code = batch.map_err(|error| error.code);
        assert_eq!(code.map(|_| ()), Err(ErrorCode::PermissionDenied));
        cluster
            .service
            .put(&root, bucket, Some("9"), body("{}"), Condition::Absent)
            .await
            .expect("root may");
    }
    // Without a key anybody may, and whoever may change it goes on to do so without a condition.
    let (service, anybody) = (&cluster.service, anonymous());
    let made = service.put(&anybody, "Role", None, body("{}"), Condition::Absent);
    let key = made.await.expect("inserted").document.key;
    service
        .put(&anybody, "Role", Some(&key), body("{}"), Condition::None)
        .await
        .expect("replaced");
}

#[tokio::test]
async fn read_only_fields_change_by_admins_alone_and_never_by_omission() {
    let cluster = TestCluster::start().await;
    let (service, root) = (&cluster.service, cluster.root().await);
    let open = r#"{"username":"ann","acl":{"read":{"/db/Role/3":"allow"}}}"#;
    let made = service
        .put(&root, "User", Some("10"), body(open), Condition::Absent)
        .await
        .expect("inserted");
    assert_eq!(json(&made.document.body)["username"], "ann");
    let acl = r#""acl":{"read":{"/db/Role/3":"allow"}}"#;
    for (ctx, sent, expected) in [
        (
            &anonymous(),
            format!(r#"{{"username":"eve",{acl}}}"#),
            "ann",
        ),
        (&anonymous(), format!("{{{acl}}}"), "ann"),
        (&root, format!("{{{acl}}}"), "ann"),
        (&root, format!(r#"{{"username":"bob",{acl}}}"#), "bob"),
    ] {
        let written = service
            .put(ctx, "User", Some("10"), body(&sent), Condition::Exists)
            .await
            .expect("replaced");
        assert_eq!(json(&written.document.body)["username"], expected, "{sent}");
    }
}

#[tokio::test]
async fn root_and_the_roles_are_there_and_protected() {
    let cluster = TestCluster::start().await;
    let (service, root) = (&cluster.service, cluster.root().await);
    let user = service
        .get(&root, "User", "1", Consistency::Linearizable)
        .await
        .expect("root");
    assert_eq!(json(&user.body)["username"], "root");
    assert!(!String::from_utf8_lossy(&user.body).contains("argon2"));
    assert!(!String::from_utf8_lossy(&user.body).contains(PASSWORD));
    let hidden = service
        .get(&anonymous(), "User", "1", Consistency::Linearizable)
        .await;
    assert_eq!(
        hidden.map_err(|error| error.code),
        Err(ErrorCode::ObjectNotFound)
    );
    for (key, name) in [("1", "admin"), ("2", "node"), ("3", "loggedin")] {
        let role = service
            .get(&anonymous(), "Role", key, Consistency::Linearizable)
            .await
            .expect("readable");
        assert_eq!(json(&role.body)["name"], name);
        let refused = service
            .delete(&anonymous(), "Role", key, Condition::None)
            .await;
        assert_eq!(
            refused.map_err(|error| error.code),
            Err(ErrorCode::PermissionDenied)
        );
    }
}

#[tokio::test]
async fn a_replaced_user_keeps_its_password() {
    let cluster = TestCluster::start().await;
    let root = cluster.root().await;
    let acl = r#"{"acl":{"read":{"/db/User/1":"allow"},"write":{"/db/User/1":"allow"}}}"#;
    cluster
        .service
        .put(&root, "User", Some("1"), body(acl), Condition::None)
        .await
        .expect("replaced");
    cluster.root().await;
}
