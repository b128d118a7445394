//! What a shard writes into its audit log, and that the chain shows what somebody did to it.

use bytes::Bytes;
use proto::log::command::Operation;
use proto::log::mutation::Operation as MutationOperation;
use proto::log::{self, Command, Mutation};

use super::harness::{Node, bucket, command, delete, mutation, principal, put, write};
use crate::audit::Record;
use crate::engine::{Batch, Column, Engine};
use crate::ids::StoreId;
use crate::keys::{self, AuditKey};
use crate::tables::audit::{self, Head};

const USERS: u32 = 2;
const ROLES: u32 = 3;
const OWNED: &str = r#"{"read":{"/db/User/7":"allow"},"write":{"/db/User/7":"allow"}}"#;

fn begin() -> Node {
    let node = Node::new(1);
    let named = |id, name: &str| log::Bucket {
        name: name.to_owned(),
        ..bucket(id, 1, false)
    };
    let buckets = vec![
        named(USERS, "User"),
        named(ROLES, "Role"),
        bucket(7, 1, false),
    ];
    let set = Operation::SetBuckets(log::SetBuckets { buckets });
    node.outcome(&command(0, set)).expect("applies");
    node
}

fn hidden(mut operation: MutationOperation, text: &str) -> MutationOperation {
    if let MutationOperation::Put(put) = &mut operation {
        put.hidden = Bytes::copy_from_slice(text.as_bytes());
    }
    operation
}

/// A write by root.
fn by_root(stamp_us: u64, bucket: u32, key: &str, operation: MutationOperation) -> Command {
    let mutation = Mutation {
        bucket,
        ..mutation(key, None, operation)
    };
    write(
        stamp_us,
        principal("/db/User/1", &["/db/Role/1"]),
        None,
        mutation,
    )
}

/// Action, target and detail of all records, checked against their hashes.
fn records(node: &Node) -> Result<Vec<(String, String, String)>, String> {
    let view = node.replica.view();
    let mut checker = audit::head(&view).expect("a head").checker();
    let rows = audit::page(&view, 0, usize::MAX, usize::MAX).expect("reads");
    let read = |row: audit::Row| {
        let at = checker.next;
        let Record {
            action,
            target,
            detail,
            ..
        } = checker
            .take(&row.text, &row.hash)
            .map_err(|why| format!("{at} {why}"))?;
        Ok((action, target, detail))
    };
    rows.into_iter().map(read).collect()
}

/// The life of a user and a role, with a document whose owner changes.
fn lives(node: &Node) {
    let user = |name: &str, acl| put(&format!("\"username\":\"{name}\",\"inactive\":null"), acl);
    let secret = |hash: &str| format!("{{\"_password\":\"{hash}\",\"_salt\":\"s\"}}");
    let banned = put("\"username\":\"eva\",\"inactive\":true", OWNED);
    for (stamp, bucket, key, operation) in [
        (1_000, USERS, "7", hidden(user("ada", OWNED), &secret("h1"))),
        (2_000, USERS, "7", hidden(user("ada", OWNED), &secret("h2"))),
        (3_000, USERS, "7", user("eva", OWNED)),
        (4_000, USERS, "7", banned),
        (5_000, ROLES, "9", put(r#""name":"x","users":[]"#, "")),
        (
            6_000,
            ROLES,
            "9",
            put(r#""name":"x","users":["/db/User/7"]"#, ""),
        ),
        (7_000, ROLES, "9", delete()),
        (8_000, 7, "a", put("\"n\":1", "")),
        (9_000, 7, "a", put("\"n\":1", OWNED)),
        (10_000, 7, "a", put("\"n\":2", OWNED)),
        (11_000, USERS, "7", delete()),
    ] {
        node.outcome(&by_root(stamp, bucket, key, operation))
            .expect("applies");
    }
    // Not an admin, and the ACL stays; an anonymous insert is none of the log's business either.
    let mutation = mutation("b", None, put("\"n\":1", ""));
    node.outcome(&write(12_000, principal("", &[]), None, mutation))
        .expect("applies");
}

#[test]
fn what_matters_is_written_down_and_no_secret() {
    let node = begin();
    lives(&node);
    let seen = records(&node).expect("sound");
    let seen: Vec<(&str, &str, &str)> = seen
        .iter()
        .map(|(action, target, detail)| (&action[..], &target[..], &detail[..]))
        .collect();
    assert_eq!(
        seen,
        [
            ("user_created", "User/7", "\"ada\""),
            ("credentials_changed", "User/7", "_password"),
            ("username_changed", "User/7", "\"eva\""),
            ("user_activity_changed", "User/7", "true"),
            ("role_created", "Role/9", "[]"),
            ("role_members_changed", "Role/9", "[\"/db/User/7\"]"),
            ("role_deleted", "Role/9", "\"x\""),
            ("acl_changed", "B7/a", OWNED),
            ("user_deleted", "User/7", "\"eva\""),
        ]
    );
    let view = node.replica.view();
    let rows = audit::page(&view, 0, usize::MAX, usize::MAX).expect("reads");
    assert!(
        rows.iter()
            .all(|row| !String::from_utf8_lossy(&row.text).contains("h2"))
    );
    let first: Record = serde_json::from_slice(&rows[0].text).expect("a record");
    assert_eq!(
        (
            first.sequence,
            first.time_us,
            &first.user[..],
            &first.database[..]
        ),
        (1, 1_000, "/db/User/1", "1")
    );
}

#[test]
fn replicas_write_the_same_chain() {
    let (a, b) = (begin(), begin());
    lives(&a);
    lives(&b);
    let head = |node: &Node| audit::head(&node.replica.view()).expect("a head");
    assert_eq!(head(&a), head(&b));
    assert_ne!(head(&a).hash, Head::default().hash);
}

#[test]
fn whoever_changes_a_row_is_found_out() {
    let node = begin();
    lives(&node);
    let key = keys::with_store(StoreId(1), &AuditKey { sequence: 3 }.encode());
    let row = node.engine.get(Column::State, &key).expect("reads");
    let mut forged = row.expect("a row").to_vec();
    let last = forged.len() - 3;
    forged[last] ^= 1;
    let mut write = Batch::new();
    write.put(Column::State, key, forged);
    node.engine.write(write).expect("written");
    let found = records(&node).expect_err("found out");
    assert!(found.starts_with("3 "), "{found}");
}

#[test]
fn old_records_leave_and_what_is_left_still_fits() {
    let node = begin();
    lives(&node);
    let expire =
        |kept_us, bytes_max| Operation::ExpireAudit(log::ExpireAudit { kept_us, bytes_max });
    let due = |kept_us, bytes_max| {
        audit::is_due(&node.replica.view(), 13_000, kept_us, bytes_max).expect("reads")
    };
    assert!(!due(12_001, u64::MAX));
    assert!(due(12_000, u64::MAX));
    // Older than 5 ms at 13 ms: those up to 8 ms.
    node.outcome(&command(13_000, expire(5_000, u64::MAX)))
        .expect("applies");
    let left = records(&node).expect("sound");
    assert_eq!(left.len(), 2);
    assert_eq!(left[0].0, "acl_changed");
    assert!(due(u64::MAX, 1));
    node.outcome(&command(13_000, expire(u64::MAX, 1)))
        .expect("applies");
    assert!(records(&node).expect("sound").is_empty());
    let head = audit::head(&node.replica.view()).expect("a head");
    assert_eq!((head.last, head.removed, head.bytes), (9, 9, 0));
    // The chain goes on behind what left; the document is still there, so that its ACL changes twice.
    lives(&node);
    assert_eq!(records(&node).expect("sound").len(), 10);
}
