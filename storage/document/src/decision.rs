//! Why rules let somebody do something or not, rule by rule, for people.
//!
//! Invariant, property-tested: the verdict is that of [`Rules::permits`], whose steps these are.

use crate::acl::{Access, EVERYBODY, Principal, Rules};

/// What rules say about a caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether the caller may.
    pub granted: bool,
    /// What settled it.
    pub reason: Reason,
    /// All rules in the order of their references, whether or not they were reached.
    pub rules: Vec<JudgedRule>,
}

/// One rule, beside the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JudgedRule {
    /// `*`, or the id of a user or a role.
    pub reference: String,
    /// What the rule says.
    pub access: Access,
    /// Whether it speaks of the caller.
    pub meant: bool,
}

/// What settled a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// An admin may, whatever the rules say.
    Admin,
    /// This reference is denied, and the caller is meant.
    Denied(String),
    /// Nobody is named as allowed, so everybody may who is not denied.
    Public,
    /// This reference is allowed, and the caller is meant.
    Allowed(String),
    /// Others are allowed, the caller is not.
    NotAllowed,
}

impl Reason {
    /// One word for programs.
    pub fn as_str(&self) -> &'static str {
        match self {
            Reason::Admin => "admin",
            Reason::Denied(_) => "denied",
            Reason::Public => "public",
            Reason::Allowed(_) => "allowed",
            Reason::NotAllowed => "not_allowed",
        }
    }

    /// The reference that settled it, if one did.
    pub fn reference(&self) -> Option<&str> {
        match self {
            Reason::Denied(reference) | Reason::Allowed(reference) => Some(reference),
            Reason::Admin | Reason::Public | Reason::NotAllowed => None,
        }
    }
}

/// Judges `caller` by `rules`. With `binds_admins` admins are judged like anybody else.
pub fn decide(rules: &Rules, caller: &Principal, binds_admins: bool) -> Decision {
    let judged = rules.iter().map(|(reference, access)| JudgedRule {
        reference: reference.to_owned(),
        access,
        meant: reference == EVERYBODY
            || caller.user.as_deref() == Some(reference)
            || caller.roles.iter().any(|role| role == reference),
    });
    let rules: Vec<JudgedRule> = judged.collect();
    let meant = |access: Access| {
        let mut of_caller = rules
            .iter()
            .filter(|rule| rule.meant && rule.access == access);
        of_caller.next().map(|rule| rule.reference.clone())
    };
    let reason = if caller.is_admin() && !binds_admins {
        Reason::Admin
    } else if let Some(reference) = meant(Access::Deny) {
        Reason::Denied(reference)
    } else if rules.iter().all(|rule| rule.access == Access::Deny) {
        Reason::Public
    } else if let Some(reference) = meant(Access::Allow) {
        Reason::Allowed(reference)
    } else {
        Reason::NotAllowed
    };
    Decision {
        granted: matches!(reason, Reason::Admin | Reason::Public | Reason::Allowed(_)),
        reason,
        rules,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const REFERENCES: [&str; 5] = ["*", "/db/User/10", "/db/Role/1", "/db/Role/3", "/db/Role/7"];

    #[test]
    fn reasons_name_the_rule() {
        let caller = Principal {
            user: Some("/db/User/10".to_owned()),
            roles: vec!["/db/Role/3".to_owned()],
        };
        let reason = |rules: &str| {
            let rules = Rules::from_json(rules).expect("valid");
            decide(&rules, &caller, false).reason
        };
        assert_eq!(reason("{}"), Reason::Public);
        assert_eq!(
            reason(r#"{"/db/Role/3":"allow","*":"deny"}"#),
            Reason::Denied("*".to_owned())
        );
        assert_eq!(
            reason(r#"{"/db/Role/3":"allow","/db/Role/7":"deny"}"#),
            Reason::Allowed("/db/Role/3".to_owned())
        );
        assert_eq!(reason(r#"{"/db/Role/7":"allow"}"#), Reason::NotAllowed);
    }

    proptest! {
        #[test]
        fn the_verdict_is_that_of_the_rules(
            rules in proptest::collection::vec((0..5usize, any::<bool>()), 0..4),
            user in any::<bool>(),
            roles in proptest::sample::subsequence(REFERENCES[2..].to_vec(), 0..=3),
        ) {
            let access = |allow| if allow { Access::Allow } else { Access::Deny };
            let rules = rules.into_iter().fold(Rules::new(), |all, (at, allow)| {
                all.with(REFERENCES[at], access(allow))
            });
            let caller = Principal {
                user: user.then(|| REFERENCES[1].to_owned()),
                roles: roles.into_iter().map(str::to_owned).collect(),
            };
            prop_assert_eq!(decide(&rules, &caller, false).granted, rules.permits(&caller));
            prop_assert_eq!(decide(&rules, &caller, true).granted, rules.permits_by_rule(&caller));
        }
    }
}
