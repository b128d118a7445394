//! Notes that sessions are to end, in the shard of users; and what the shard of roles tells the nodes.

use document::acl::ADMIN_ROLE;
use proto::log::command::Operation;
use proto::log::mutation::Operation as MutationOperation;
use proto::log::{self, Mutation, UserVersion};

use super::harness::{
    BUCKET, DATABASE, Node, bucket, command, delete, mutation, principal, put, write,
};
use crate::machine::Payload;
use crate::machine::outcome::Outcome;
use crate::tables::rights::{self, SessionEnd};

const ROLES: u32 = 8;

/// A shard with the buckets `User` and `Role`.
fn node() -> Node {
    let node = Node::new(1);
    let mut buckets = [bucket(BUCKET, 1, false), bucket(ROLES, 1, false)];
    for (bucket, name) in buckets.iter_mut().zip(["User", "Role"]) {
        bucket.name = name.to_owned();
    }
    apply(
        &node,
        Operation::SetBuckets(log::SetBuckets {
            buckets: buckets.to_vec(),
        }),
    );
    node
}

fn apply(node: &Node, operation: Operation) {
    let outcome = node.outcome(&command(1, operation)).expect("applies");
    assert!(matches!(outcome, Outcome::Done), "{outcome:?}");
}

fn written(node: &Node, mutation: Mutation) -> u64 {
    let admin = principal("/db/User/1", &[ADMIN_ROLE]);
    let outcome = node.outcome(&write(1, admin, None, mutation));
    match outcome.expect("applies") {
        Outcome::Written(all) => all[0].version,
        other => panic!("{other:?}"),
    }
}

/// A put of a user with a password.
fn user(fields: &str, hash: &str) -> Mutation {
    let mut put = put(fields, "");
    if let MutationOperation::Put(put) = &mut put {
        put.hidden = format!(r#"{{"_password":"{hash}"}}"#).into();
    }
    mutation("ann", None, put)
}

fn notes(node: &Node) -> Vec<SessionEnd> {
    rights::session_ends(&node.replica.view(), 10).expect("reads")
}

fn noted(version: u64) -> Vec<SessionEnd> {
    vec![SessionEnd {
        database: DATABASE,
        user: "ann".to_owned(),
        version,
    }]
}

fn ann(version: u64) -> Vec<UserVersion> {
    vec![UserVersion {
        key: "ann".to_owned(),
        version,
    }]
}

fn settle(node: &Node, version: u64) {
    apply(
        node,
        Operation::SettleSessions(log::SettleSessions {
            database: DATABASE,
            users: ann(version),
        }),
    );
}

fn end(node: &Node, version: u64) {
    apply(
        node,
        Operation::EndSessions(log::EndSessions {
            database: DATABASE,
            users: ann(version),
        }),
    );
}

/// Index, whether it is a role, key and version of what changed after an index.
fn changed(node: &Node, after: u64, page: usize) -> (Vec<(u64, bool, String, u64)>, bool) {
    let view = node.replica.view();
    let (changed, more) = rights::changed_after(&view, DATABASE, after, page).expect("reads");
    let row = |one: rights::Changed| (one.index, one.is_role, one.key, one.version);
    (changed.into_iter().map(row).collect(), more)
}

fn index(node: &Node) -> u64 {
    node.replica.applied().id.expect("applied").index
}

#[test]
fn writes_that_end_sessions_leave_a_note_with_their_version() {
    let node = node();
    written(&node, user(r#""inactive":null"#, "a"));
    assert_eq!(notes(&node), [], "who is new has no sessions");
    written(&node, user(r#""inactive":null,"n":1"#, "a"));
    // As a client writes, without hidden members.
    written(&node, mutation("ann", None, put(r#""inactive":false"#, "")));
    assert_eq!(notes(&node), []);
    let banned = written(&node, mutation("ann", None, put(r#""inactive":true"#, "")));
    assert_eq!(notes(&node), noted(banned));
    // An earlier one does not settle it.
    settle(&node, banned - 1);
    assert_eq!(notes(&node), noted(banned));
    settle(&node, banned);
    assert_eq!(notes(&node), []);
    written(
        &node,
        mutation("ann", None, put(r#""inactive":true,"n":2"#, "")),
    );
    assert_eq!(notes(&node), [], "still inactive");
    let changed = written(&node, user(r#""inactive":null"#, "b"));
    assert_eq!(notes(&node), noted(changed));
    settle(&node, changed);
    let ended = Mutation {
        ends_sessions: true,
        ..user(r#""inactive":null"#, "b")
    };
    let ended = written(&node, ended);
    assert_eq!(notes(&node), noted(ended));
    let deleted = written(&node, mutation("ann", None, delete()));
    assert_eq!(notes(&node), noted(deleted));
    settle(&node, deleted);
    let again = written(&node, user(r#""inactive":null"#, "b"));
    assert_eq!((again, notes(&node)), (deleted + 1, Vec::new()));
}

#[test]
fn the_shard_of_roles_tells_the_newest_of_each_and_forgets_the_oldest() {
    let node = node();
    let role = |key: &str, fields: &str| Mutation {
        bucket: ROLES,
        ..mutation(key, None, put(fields, ""))
    };
    written(&node, role("a", r#""users":[]"#));
    let a = index(&node);
    end(&node, 4);
    let four = index(&node);
    assert_eq!(
        changed(&node, 0, 9),
        (
            vec![
                (a, true, "a".to_owned(), 0),
                (four, false, "ann".to_owned(), 4)
            ],
            false
        )
    );
    // Said again, or less than was said: nothing.
    end(&node, 4);
    end(&node, 3);
    assert_eq!(changed(&node, a, 9).0, [(four, false, "ann".to_owned(), 4)]);
    end(&node, 7);
    let seven = index(&node);
    written(&node, role("a", r#""users":[],"n":1"#));
    let again = index(&node);
    assert_eq!(
        changed(&node, a, 9).0,
        [
            (seven, false, "ann".to_owned(), 7),
            (again, true, "a".to_owned(), 0)
        ]
    );
    assert_eq!(
        changed(&node, 0, 1),
        (vec![(seven, false, "ann".to_owned(), 7)], true)
    );
    let head = rights::head(&node.replica, DATABASE).expect("reads");
    assert_eq!((head.changed, head.forgotten), (again, 0));

    // T moves on, and what is old enough goes.
    let forget = |kept_us| {
        Operation::ForgetRights(log::ForgetRights {
            database: DATABASE,
            kept_us,
            page: 1,
        })
    };
    let mut tick = command(1, forget(1_000));
    tick.tick = Some(log::Tick {
        base_us: 0,
        elapsed_us: 500,
        commit_index: 0,
    });
    node.outcome(&tick).expect("applies");
    tick.operation = Some(forget(500));
    node.outcome(&tick).expect("applies");
    assert_eq!(changed(&node, 0, 9).0, [(again, true, "a".to_owned(), 0)]);
    let head = rights::head(&node.replica, DATABASE).expect("reads");
    assert_eq!((head.changed, head.forgotten), (again, seven));
    node.apply(Payload::Blank).expect("applies");
}
