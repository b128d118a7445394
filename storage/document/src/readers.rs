//! Who may read an object, in a form that an index can hold: the references under which it is found by those who may.
//!
//! Invariant, property-tested: whoever may read an object without being an admin has one of its references among his own. The other way
//! round it is a superset, since denials are left out: whoever finds an object this way judges its rules again ([`crate::acl`]).

use crate::acl::{Access, Acl, EVERYBODY, Principal};

/// The reference under which everybody looks. No user or role has it.
pub const ANYBODY: &str = "";

/// The references under which an object with this ACL is found; none if only admins may read it. Each once, in no particular order.
pub fn of_object(acl: Option<&Acl>) -> Vec<&str> {
    let Some(acl) = acl else {
        return vec![ANYBODY];
    };
    if acl.read.denies_everybody() {
        return Vec::new();
    }
    let allowed: Vec<&str> = acl
        .read
        .iter()
        .filter(|(_, access)| *access == Access::Allow)
        .map(|(reference, _)| reference)
        .collect();
    if allowed.is_empty() || allowed.contains(&EVERYBODY) {
        return vec![ANYBODY];
    }
    allowed
}

/// The references under which a caller looks, ascending and each once.
pub fn of_caller(principal: &Principal) -> Vec<&str> {
    let mut own = vec![ANYBODY];
    own.extend(principal.user.as_deref());
    own.extend(principal.roles.iter().map(String::as_str));
    own.sort_unstable();
    own.dedup();
    own
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::acl::{Rules, may_read};

    const REFERENCES: [&str; 6] = [
        "*",
        "/db/User/10",
        "/db/User/11",
        "/db/Role/2",
        "/db/Role/3",
        "/db/Role/7",
    ];

    fn rules() -> impl Strategy<Value = Rules> {
        let rule = (
            0..REFERENCES.len(),
            prop_oneof![Just(Access::Allow), Just(Access::Deny)],
        );
        proptest::collection::vec(rule, 0..4).prop_map(|rules| {
            rules.into_iter().fold(Rules::new(), |all, (at, access)| {
                all.with(REFERENCES[at], access)
            })
        })
    }

    fn caller() -> impl Strategy<Value = Principal> {
        let user = proptest::option::of(1..3usize);
        let roles = proptest::sample::subsequence(REFERENCES[3..].to_vec(), 0..=3);
        (user, roles).prop_map(|(user, roles)| Principal {
            user: user.map(|at| REFERENCES[at].to_owned()),
            roles: roles.into_iter().map(str::to_owned).collect(),
        })
    }

    #[test]
    fn references_of_objects() {
        for (read, found) in [
            (r#"{}"#, &[""][..]),
            (r#"{"/db/User/10":"deny"}"#, &[""]),
            (r#"{"*":"allow","/db/User/10":"allow"}"#, &[""]),
            (r#"{"*":"deny","/db/User/10":"allow"}"#, &[]),
            (
                r#"{"/db/User/10":"allow","/db/Role/7":"deny"}"#,
                &["/db/User/10"],
            ),
        ] {
            let read = Rules::from_json(read).expect("valid");
            let acl = Acl {
                read,
                write: Rules::new(),
            };
            assert_eq!(of_object(Some(&acl)), found, "{acl:?}");
        }
        assert_eq!(of_object(None), [ANYBODY]);
    }

    proptest! {
        #[test]
        fn whoever_may_read_finds(read in rules(), caller in caller()) {
            let acl = Acl { read, write: Rules::nobody() };
            let of_object = of_object(Some(&acl));
            let finds = of_caller(&caller).iter().any(|own| of_object.contains(own));
            prop_assert!(finds || !may_read(Some(&acl), &caller));
        }
    }
}
