//! The copy against a plain model: whatever the order in which answers come, it says what the shard said last, or nothing.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proto::log::UserVersion;

use super::*;
use crate::auth::token::Kind;
use crate::forward::{EndedSessions, RoleMembers};

const BOUND: Duration = Duration::from_secs(3);
const ROWS_MAX: usize = 100;

fn claims(user: &str, version: u64, role: Option<&str>) -> Claims {
    Claims {
        kind: Kind::Session,
        created: 0,
        expires: 0,
        user: user.to_owned(),
        version,
        texts: role.map(str::to_owned).into_iter().collect(),
    }
}

fn ended(user: &str, version: u64, index: u64) -> EndedSessions {
    let user = Some(UserVersion {
        key: user.to_owned(),
        version,
    });
    EndedSessions { user, index }
}

fn role(key: &str, users: &[&str]) -> RoleMembers {
    RoleMembers {
        key: key.to_owned(),
        users: users.iter().map(|user| object_id(USERS, user)).collect(),
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A copy with roles that was confirmed at 10 s.
fn known(roles: Vec<RoleMembers>) -> Copy {
    let copy = Copy::default();
    copy.begin();
    let asked = copy.asked();
    copy.take(
        asked,
        Part {
            upto: 5,
            roles,
            ..Part::default()
        },
        ROWS_MAX,
    );
    copy.complete(asked);
    news(&copy, 10, Part::default());
    copy
}

/// One question that was sent at a time, and its answer.
fn news(copy: &Copy, sent: u64, part: Part) {
    let asked = copy.asked();
    assert_eq!(copy.take(asked, part, ROWS_MAX), Taken::In);
    copy.confirm(asked, seconds(sent));
}

fn roles_of(copy: &Copy, user: &str) -> Vec<String> {
    match copy.judge(&claims(user, 1, None), seconds(10), BOUND) {
        Verdict::Good(principal) => principal.roles,
        other => panic!("{other:?}"),
    }
}

#[test]
fn nothing_is_judged_before_all_is_read_and_after_the_bound() {
    let copy = Copy::default();
    let judged = |copy: &Copy, at| copy.judge(&claims("1", 1, None), seconds(at), BOUND);
    assert_eq!(judged(&copy, 0), Verdict::Stale);
    let copy = known(vec![role("1", &["1"])]);
    assert!(matches!(judged(&copy, 13), Verdict::Good(_)));
    assert_eq!(judged(&copy, 14), Verdict::Stale);
    // A question that was sent before this node made a change says nothing about it.
    let asked = copy.asked();
    copy.outdate();
    assert_eq!(judged(&copy, 10), Verdict::Stale);
    copy.confirm(asked, seconds(11));
    assert_eq!(judged(&copy, 11), Verdict::Stale);
    news(&copy, 11, Part::default());
    assert!(matches!(judged(&copy, 11), Verdict::Good(_)));
}

#[test]
fn sessions_end_by_version_and_never_start_again() {
    let copy = known(Vec::new());
    let part = |version, index| Part {
        upto: index,
        ended: vec![ended("1", version, index)],
        ..Part::default()
    };
    news(&copy, 10, part(4, 7));
    // Comes late, and says less.
    news(&copy, 10, part(3, 6));
    let judged = |version| copy.judge(&claims("1", version, None), seconds(10), BOUND);
    assert_eq!(judged(3), Verdict::Over);
    // The log-in with the new password, be it in the same second.
    assert!(matches!(judged(4), Verdict::Good(_)));
    // Too old for any token that is still alive.
    let forgotten = Part {
        upto: 9,
        forgotten: 7,
        ..Part::default()
    };
    news(&copy, 10, forgotten);
    assert_eq!(copy.size(), (0, 0));
}

#[test]
fn roles_are_those_of_the_newest_answer() {
    let copy = known(vec![role("20", &["7", "8"]), role("21", &["7"])]);
    assert_eq!(
        roles_of(&copy, "7"),
        ["/db/Role/20", "/db/Role/21", LOGGED_IN_ROLE]
    );
    let older = copy.asked();
    let part = |upto, roles, gone: &[&str]| Part {
        upto,
        roles,
        gone: gone.iter().map(|&key| key.to_owned()).collect(),
        ..Part::default()
    };
    news(&copy, 10, part(9, vec![role("20", &["8"])], &["21"]));
    assert_eq!(roles_of(&copy, "7"), [LOGGED_IN_ROLE]);
    // The answer to a question from before was overtaken.
    let late = part(8, vec![role("20", &["7"]), role("21", &["7"])], &[]);
    assert_eq!(copy.take(older, late, ROWS_MAX), Taken::In);
    assert_eq!(roles_of(&copy, "7"), [LOGGED_IN_ROLE]);
    assert_eq!(roles_of(&copy, "8"), ["/db/Role/20", LOGGED_IN_ROLE]);
}

#[test]
fn an_assumed_role_is_all_that_the_caller_has_and_only_while_it_might_assume_it() {
    let copy = known(vec![role("1", &["1"]), role("20", &["7"])]);
    let judged =
        |copy: &Copy, user, role| copy.judge(&claims(user, 1, Some(role)), seconds(10), BOUND);
    let only_it = |verdict: Verdict| match verdict {
        Verdict::Good(principal) => principal.roles == ["/db/Role/20", LOGGED_IN_ROLE],
        Verdict::Over | Verdict::Stale => false,
    };
    assert!(only_it(judged(&copy, "7", "20")));
    assert!(
        only_it(judged(&copy, "1", "20")),
        "an admin, who is none now"
    );
    assert_eq!(judged(&copy, "8", "20"), Verdict::Over);
    assert_eq!(judged(&copy, "7", "1"), Verdict::Over);
    news(
        &copy,
        10,
        Part {
            upto: 9,
            roles: vec![role("20", &[])],
            ..Part::default()
        },
    );
    assert_eq!(judged(&copy, "7", "20"), Verdict::Over);
}

#[test]
fn what_was_forgotten_before_it_was_heard_makes_the_copy_begin_anew() {
    let copy = known(Vec::new());
    news(
        &copy,
        10,
        Part {
            upto: 6,
            ..Part::default()
        },
    );
    let asked = copy.asked();
    let gap = Part {
        upto: 20,
        forgotten: 12,
        ..Part::default()
    };
    assert_eq!(copy.take(asked, gap, ROWS_MAX), Taken::Forgotten);
    copy.begin();
    // Whatever is still on its way belongs to the copy that is gone.
    let late = Part {
        upto: 30,
        roles: vec![role("20", &["7"])],
        ..Part::default()
    };
    assert_eq!(copy.take(asked, late, ROWS_MAX), Taken::In);
    assert_eq!((copy.size(), copy.asked().after), ((0, 0), None));
}

#[test]
fn a_copy_that_would_be_too_large_is_given_up_until_it_is_not() {
    // A role with two members: three rows.
    let copy = known(vec![role("20", &["7", "8"])]);
    let take = |part, rows_max| copy.take(copy.asked(), part, rows_max);
    let more = |users: &[&str]| Part {
        upto: 9,
        roles: vec![role("20", users)],
        ended: vec![ended("1", 4, 9)],
        ..Part::default()
    };
    assert_eq!(take(more(&["7", "8"]), 4), Taken::In);
    // Fewer members are fewer rows.
    assert_eq!(take(more(&["7"]), 3), Taken::In);
    assert_eq!(take(more(&["7", "8"]), 3), Taken::TooLarge);
    assert_eq!((copy.size(), copy.asked().after), ((0, 0), None));
    assert!(copy.is_too_large() && copy.principal("7").is_none());
    let judged = copy.judge(&claims("7", 1, None), seconds(10), BOUND);
    assert_eq!(judged, Verdict::Stale);
    copy.begin();
    let asked = copy.asked();
    assert_eq!(take(more(&["7"]), 3), Taken::In);
    assert!(copy.is_too_large(), "not whole yet");
    copy.complete(asked);
    assert!(!copy.is_too_large());
}

/// What happens in the shard.
#[derive(Clone, Debug)]
enum Change {
    End(u8),
    Role(u8, Vec<u8>),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let change = prop_oneof![
        (0..3u8).prop_map(Change::End),
        (0..3u8, proptest::collection::vec(0..3u8, 0..3))
            .prop_map(|(role, users)| Change::Role(role, users)),
    ];
    proptest::collection::vec(change, 1..20)
}

proptest! {
    /// Answers to questions about a history come in any order, some twice, some never; those that do come are never contradicted.
    #[test]
    fn answers_in_any_order_lead_to_the_newest(changes in changes(), order in proptest::collection::vec(any::<prop::sample::Index>(), 0..20)) {
        let copy = known(Vec::new());
        // The whole state after each change, as answers from the beginning would have it.
        let (mut versions, mut members) = (BTreeMap::new(), BTreeMap::new());
        let mut answers = Vec::new();
        for (at, change) in changes.iter().enumerate() {
            let index = 10 + at as u64;
            match change {
                Change::End(user) => {
                    versions.insert(*user, (versions.len() as u64 + index, index));
                }
                Change::Role(role, users) => {
                    members.insert(*role, users.clone());
                }
            }
            let part = Part {
                upto: index,
                roles: members
                    .iter()
                    .map(|(key, users): (&u8, &Vec<u8>)| {
                        let users: Vec<String> = users.iter().map(u8::to_string).collect();
                        let users: Vec<&str> = users.iter().map(String::as_str).collect();
                        role(&key.to_string(), &users)
                    })
                    .collect(),
                ended: versions
                    .iter()
                    .map(|(user, (version, index))| ended(&user.to_string(), *version, *index))
                    .collect(),
                ..Part::default()
            };
            answers.push(part);
        }
        let asked = copy.asked();
        for at in order {
            prop_assert_eq!(copy.take(asked, at.get(&answers).clone(), ROWS_MAX), Taken::In);
        }
        let last = answers.pop().expect("there is one");
        news(&copy, 10, last);
        for user in 0..3u8 {
            let least = versions.get(&user).map_or(0, |(version, _)| *version);
            let judged = |version| copy.judge(&claims(&user.to_string(), version, None), seconds(10), BOUND);
            if least > 0 {
                prop_assert_eq!(judged(least - 1), Verdict::Over);
            }
            let Verdict::Good(principal) = judged(least) else { panic!("good") };
            let mut roles: Vec<String> = members
                .iter()
                .filter(|(_, users)| users.contains(&user))
                .map(|(role, _)| object_id(ROLES, &role.to_string()))
                .collect();
            roles.push(LOGGED_IN_ROLE.to_owned());
            roles.sort();
            let mut found = principal.roles;
            found.sort();
            prop_assert_eq!(found, roles);
        }
    }
}
