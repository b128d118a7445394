//! Who may read few documents looks at few: results are those of a scan by the rules, whatever the plan, and cost what the caller may see.

use std::collections::BTreeMap;

use bytes::Bytes;
use document::acl::{Acl, Principal};
use proptest::prelude::*;
use proto::{ErrorCode, ShardId};
use serde_json::{Value, json as value};
use storage::tables::readers;

use super::{body, json, keys_of_scan, put};
use crate::testing::{PASSWORD, SHARDS, TestCluster, anonymous, soon, with_token};
use crate::{
    AccessOperation, AccessQuestion, Condition, Context, Limits, QueryRequest, ScanRange,
    ShardExplanation,
};

const USERS: [&str; 3] = ["10", "11", "12"];

/// Users that log in with root's password, and a role that the first two of them have.
async fn cluster() -> (TestCluster, Context) {
    let cluster = TestCluster::with_nodes(1, Limits::default()).await;
    cluster.enter_readers();
    let root = cluster.root().await;
    let exported = cluster
        .service
        .export(&root, "User", ScanRange::default())
        .await;
    let user: Value = json(&exported.expect("exported").documents[0].body);
    let users = USERS.map(|key| {
        let user = value!({ "id": format!("/db/User/{key}"), "username": key, "_password": user["_password"] });
        body(&user.to_string())
    });
    let imported = cluster.service.import(&root, "User", users.to_vec()).await;
    assert!(imported.expect("imported").iter().all(Result::is_ok));
    let role = value!({ "name": "editors", "users": ["/db/User/10", "/db/User/11"] }).to_string();
    let made = cluster
        .service
        .put(&root, "Role", Some("70"), body(&role), Condition::Absent);
    made.await.expect("a role");
    (cluster, root)
}

async fn session(cluster: &TestCluster, user: &str) -> Context {
    let session = cluster.service.login(&anonymous(), user, PASSWORD).await;
    with_token(&session.expect("logs in").token)
}

/// Waits until every shard's entries of readers are complete.
async fn entered(cluster: &TestCluster, bucket: &str) {
    let metadata = cluster.metadata();
    let database = metadata.database("").expect("a database");
    let (database, bucket) = (database.id, database.buckets[bucket].id);
    let deadline = soon();
    for shard in (1..=SHARDS).map(ShardId) {
        cluster
            .service
            .core
            .shards
            .readers
            .want((shard, database, bucket));
        let replica = cluster
            .service
            .core
            .groups
            .replica(shard)
            .expect("a replica");
        while !readers::is_complete(&replica.view(), database, bucket).expect("reads") {
            assert!(
                std::time::Instant::now() < deadline,
                "the entries are not complete in time"
            );
            tokio::task::yield_now().await;
        }
    }
}

fn only(user: &str) -> String {
    value!({ "n": 1, "acl": { "read": { (format!("/db/User/{user}")): "allow" }, "write": {} } })
        .to_string()
}

fn ask(filter: &Value, sort: &str, count: Option<u64>) -> QueryRequest {
    QueryRequest {
        filter: Bytes::from(filter.to_string()),
        sort: Bytes::copy_from_slice(sort.as_bytes()),
        count,
        ..QueryRequest::default()
    }
}

async fn found(cluster: &TestCluster, ctx: &Context, request: QueryRequest) -> Vec<String> {
    let (mut keys, mut continuation) = (Vec::new(), None);
    loop {
        let request = QueryRequest {
            continuation,
            ..request.clone()
        };
        let page = cluster
            .service
            .query(ctx, "Demo", request)
            .await
            .expect("answered");
        keys.extend(page.documents.into_iter().map(|document| document.key));
        continuation = page.continuation;
        if continuation.is_none() {
            return keys;
        }
    }
}

fn total(explained: &[ShardExplanation], member: &str) -> u64 {
    let explained = ShardExplanation::to_json(explained);
    let shards = explained["shards"].as_array().expect("shards");
    shards
        .iter()
        .map(|shard| shard[member].as_u64().unwrap_or_default())
        .sum()
}

#[tokio::test]
async fn a_query_costs_what_the_caller_may_see() {
    let (cluster, root) = cluster().await;
    for n in 0..400 {
        let text = only(if n % 100 == 0 { "10" } else { "11" });
        put(
            &cluster,
            &root,
            &format!("k{n:03}"),
            &text,
            Condition::Absent,
        )
        .await
        .expect("stored");
    }
    // Nobody asked for it: the writes themselves did.
    entered(&cluster, "Demo").await;
    for (filter, sort, count) in [
        (value!({}), "", None),
        (value!({ "n": 1 }), "", Some(2)),
        (value!({ "n": 1 }), r#"{"n":1,"id":-1}"#, None),
    ] {
        let request = ask(&filter, sort, count);
        let explained = cluster
            .service
            .explain_as(&root, "10", "Demo", request.clone())
            .await;
        let explained = explained.expect("explained");
        let json = ShardExplanation::to_json(&explained);
        assert!(total(&explained, "examinedDocuments") <= 4, "{json:#}");
        let plans = json["shards"].as_array().expect("shards").iter();
        assert!(
            plans
                .map(|shard| &shard["plan"])
                .all(|plan| plan == "readers"),
            "{json:#}"
        );
        // Who may see nearly all of them is better off with a scan.
        let explained = cluster
            .service
            .explain_as(&root, "11", "Demo", request)
            .await;
        let json = ShardExplanation::to_json(&explained.expect("explained"));
        assert_eq!(json["shards"][0]["plan"], "scan", "{json:#}");
    }
    let ten = session(&cluster, "10").await;
    let all = ["k000", "k100", "k200", "k300"];
    assert_eq!(
        found(&cluster, &ten, ask(&value!({}), r#"{"id":1}"#, None)).await,
        all
    );
    let counted = cluster
        .service
        .count(&ten, "Demo", ask(&value!({}), "", None))
        .await;
    assert_eq!(counted.expect("counted").count, 4);
    let mut ids = keys_of_scan(&cluster, &ten, 1).await;
    ids.sort_unstable();
    assert_eq!(ids, all);
    let refused = cluster
        .service
        .explain_as(&ten, "11", "Demo", QueryRequest::default())
        .await;
    assert_eq!(
        refused.expect_err("no admin").code,
        ErrorCode::PermissionDenied
    );
}

#[tokio::test]
async fn documents_of_before_are_found_and_public_buckets_pay_nothing() {
    let (cluster, root) = cluster().await;
    for n in 0..40 {
        put(&cluster, &root, &format!("p{n}"), "{}", Condition::Absent)
            .await
            .expect("stored");
    }
    let demo = cluster.metadata().database("").expect("a database").buckets["Demo"].id;
    let wanted = cluster.service.core.shards.readers.wanted();
    assert!(wanted.iter().all(|(_, _, bucket)| *bucket != demo));
    // Users are their own, so their bucket has entries; nothing of that is under way any more.
    entered(&cluster, "User").await;
    let proposals = |cluster: &TestCluster| cluster.world.proposals.lock().values().sum::<u64>();
    let before = proposals(&cluster);
    put(&cluster, &root, "p0", "{}", Condition::None)
        .await
        .expect("stored");
    assert_eq!(proposals(&cluster), before + 1);
    put(&cluster, &root, "hidden", &only("10"), Condition::Absent)
        .await
        .expect("stored");
    entered(&cluster, "Demo").await;
    assert_eq!(
        found(&cluster, &anonymous(), ask(&value!({}), "", None))
            .await
            .len(),
        40
    );
    let ten = session(&cluster, "10").await;
    assert_eq!(
        found(&cluster, &ten, ask(&value!({}), "", None))
            .await
            .len(),
        41
    );
}

#[tokio::test]
async fn a_decision_is_told_rule_by_rule() {
    let (cluster, root) = cluster().await;
    let text = value!({ "acl": { "read": { "/db/Role/70": "allow", "/db/User/11": "deny" }, "write": {} } });
    put(&cluster, &root, "k", &text.to_string(), Condition::Absent)
        .await
        .expect("stored");
    let check = async |user: Option<&str>, key: Option<&str>, operation| {
        let question = AccessQuestion {
            user: user.map(str::to_owned),
            bucket: "Demo".to_owned(),
            key: key.map(str::to_owned),
            operation,
        };
        cluster.service.check_access(&root, question).await
    };
    for (user, granted, reason, by) in [
        (Some("/db/User/10"), true, "allowed", Some("/db/Role/70")),
        (Some("11"), false, "denied", Some("/db/User/11")),
        (Some("12"), false, "not_allowed", None),
        (None, false, "not_allowed", None),
        (Some("1"), true, "admin", None),
    ] {
        let answer = check(user, Some("k"), AccessOperation::Load)
            .await
            .expect("checked");
        assert_eq!(
            (answer.granted(), answer.exists),
            (granted, Some(true)),
            "{answer:?}"
        );
        let decision = &answer.checks[1].decision;
        assert_eq!(
            (decision.reason.as_str(), decision.reason.reference()),
            (reason, by)
        );
        let refusal = (!granted).then_some(ErrorCode::ObjectNotFound);
        assert_eq!(answer.refusal(), refusal);
        assert_eq!(answer.to_json()["checks"][1]["rules"], "read");
    }
    let missing = check(None, Some("l"), AccessOperation::Upsert)
        .await
        .expect("checked");
    assert_eq!((missing.exists, missing.checks.len()), (Some(false), 2));
    let unknown = check(Some("13"), None, AccessOperation::Load)
        .await
        .expect_err("no user");
    assert_eq!(unknown.code, ErrorCode::ObjectNotFound);
    let question = AccessQuestion {
        user: None,
        bucket: "Demo".to_owned(),
        key: None,
        operation: AccessOperation::Load,
    };
    let ten = session(&cluster, "10").await;
    let refused = cluster.service.check_access(&ten, question).await;
    assert_eq!(
        refused.expect_err("no admin").code,
        ErrorCode::PermissionDenied
    );
}

#[tokio::test]
async fn an_acl_has_a_limit() {
    let (cluster, root) = cluster().await;
    let acl = |rules: usize| {
        let read: serde_json::Map<String, Value> = (0..rules)
            .map(|n| (format!("/db/User/u{n}"), value!("allow")))
            .collect();
        value!({ "acl": { "read": read, "write": {} } }).to_string()
    };
    let refused = put(&cluster, &root, "k", &acl(501), Condition::Absent).await;
    let refused = refused.expect_err("too many");
    assert_eq!(refused.code, ErrorCode::BadRequest);
    assert!(
        refused.message.contains("500") && refused.message.contains("role"),
        "{refused:?}"
    );
    put(&cluster, &root, "k", &acl(500), Condition::Absent)
        .await
        .expect("stored");
}

const RULES: [&str; 8] = [
    "{}",
    r#"{"/db/User/10":"allow"}"#,
    r#"{"/db/User/11":"allow","/db/Role/70":"allow"}"#,
    r#"{"/db/Role/70":"allow","/db/User/11":"deny"}"#,
    r#"{"/db/Role/3":"allow"}"#,
    r#"{"*":"deny","/db/User/10":"allow"}"#,
    r#"{"/db/User/12":"deny"}"#,
    r#"{"/db/User/99":"allow"}"#,
];

#[derive(Clone, Debug)]
enum Step {
    Put(u8, usize),
    Delete(u8),
    Enter,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (any::<u8>(), 0..RULES.len()).prop_map(|(key, rules)| Step::Put(key % 24, rules)),
        2 => any::<u8>().prop_map(|key| Step::Delete(key % 24)),
        1 => Just(Step::Enter),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    /// Each caller finds by query, count, list and load exactly what the rules let it, by whatever plan.
    #[test]
    fn callers_find_what_they_may_read(steps in proptest::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async move {
            let (cluster, root) = cluster().await;
            let mut stored: BTreeMap<String, Acl> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Put(key, rules) => {
                        let acl = format!(r#"{{"read":{},"write":{{}}}}"#, RULES[rules]);
                        let text = format!(r#"{{"n":{key},"acl":{acl}}}"#);
                        let key = format!("k{key}");
                        put(&cluster, &root, &key, &text, Condition::None).await.expect("stored");
                        let acl = Acl::from_json(&acl).expect("valid").expect("not null");
                        stored.insert(key, acl);
                    }
                    Step::Delete(key) => {
                        let key = format!("k{key}");
                        let deleted = cluster.service.delete(&root, "Demo", &key, Condition::None);
                        deleted.await.expect("deleted");
                        stored.remove(&key);
                    }
                    Step::Enter => entered(&cluster, "Demo").await,
                }
            }
            entered(&cluster, "Demo").await;
            let mut callers = vec![(Principal::anonymous(), anonymous())];
            for user in USERS {
                let mut roles = vec!["/db/Role/3".to_owned()];
                roles.extend((user != "12").then(|| "/db/Role/70".to_owned()));
                let principal = Principal { user: Some(format!("/db/User/{user}")), roles };
                callers.push((principal, session(&cluster, user).await));
            }
            for (principal, ctx) in callers {
                let mut may: Vec<&str> = stored
                    .iter()
                    .filter(|(_, acl)| acl.read.permits(&principal))
                    .map(|(key, _)| key.as_str())
                    .collect();
                for (sort, page) in [("", None), ("", Some(3)), (r#"{"id":1}"#, Some(4))] {
                    let mut keys = found(&cluster, &ctx, ask(&value!({}), sort, page)).await;
                    if !sort.is_empty() {
                        assert!(keys.is_sorted());
                    }
                    keys.sort_unstable();
                    assert_eq!(keys, may, "{principal:?} {sort}");
                }
                let mut ids = keys_of_scan(&cluster, &ctx, 2).await;
                ids.sort_unstable();
                assert_eq!(ids, may, "{principal:?} in a list");
                let some = value!({ "n": { "$lt": 12 } });
                let counted = cluster.service.count(&ctx, "Demo", ask(&some, "", None)).await;
                may.retain(|key| key[1..].parse::<u8>().is_ok_and(|n| n < 12));
                assert_eq!(counted.expect("counted").count, may.len() as u64, "{principal:?}");
            }
        });
    }
}
