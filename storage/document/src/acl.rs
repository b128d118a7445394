//! Who may do what: rules, object ACLs and the caller they are judged for (contract sections 7.1 and 7.2).
//!
//! The same code answers for a read over HTTP, for a query and for apply, which checks the ACL of the *stored* document so that no race
//! can get around it.
//!
//! Invariants:
//! - Judging is total and pure: rules and principal in, yes or no out.
//! - References in rules that came through [`Rules::from_json`] or [`Acl::from_json`] are `*` or the canonical id of a user or a role, so
//!   comparing texts is comparing identities.
//!
//! Lacks: looking up the roles of a user (service), class operations ([`crate::schema`]), and the policy for absent ACLs: `None` is
//! public here.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::{id, json};

/// The role whose members pass every check.
pub const ADMIN_ROLE: &str = "/db/Role/1";
/// The role of code that runs inside the database. It has no rights of its own.
pub const NODE_ROLE: &str = "/db/Role/2";
/// The role of every authenticated caller.
pub const LOGGED_IN_ROLE: &str = "/db/Role/3";
/// The predefined user `root`, a member of [`ADMIN_ROLE`].
pub const ROOT_USER: &str = "/db/User/1";
/// The reference that stands for everybody.
pub const EVERYBODY: &str = "*";

/// The caller of an operation. The default is the anonymous one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Principal {
    /// Full id of the user, `/db/User/<key>`; `None` when nobody is logged in.
    pub user: Option<String>,
    /// Full ids of all roles, `/db/Role/<key>`, with the implied ones; in no particular order.
    pub roles: Vec<String>,
}

impl Principal {
    /// A caller without log-in and without roles.
    pub fn anonymous() -> Principal {
        Principal::default()
    }

    /// The predefined administrator.
    pub fn root() -> Principal {
        Principal {
            user: Some(ROOT_USER.to_owned()),
            roles: vec![ADMIN_ROLE.to_owned()],
        }
    }

    /// Whether the caller has the admin role, and with it every right.
    pub fn is_admin(&self) -> bool {
        self.roles.iter().any(|role| role == ADMIN_ROLE)
    }

    /// Whether a rule for `reference` speaks of this caller.
    fn is_meant_by(&self, reference: &str) -> bool {
        reference == EVERYBODY
            || self.user.as_deref() == Some(reference)
            || self.roles.iter().any(|role| role == reference)
    }
}

/// What a rule says about its user or role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// The caller belongs to those who may.
    Allow,
    /// The caller may not, whatever else is allowed.
    Deny,
}

/// Rules for one operation: reference (`/db/User/<key>`, `/db/Role/<key>` or `*`) to access. No rules mean public.
///
/// The serde form is the JSON form, `{"/db/Role/1":"allow"}`; it trusts its input and is for what we stored ourselves. Text from
/// outside goes through [`Rules::from_json`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rules(BTreeMap<String, Access>);

impl Rules {
    /// No rules: public.
    pub fn new() -> Rules {
        Rules::default()
    }

    /// Only the admin role is allowed.
    pub fn admin_only() -> Rules {
        Rules::new().with(ADMIN_ROLE, Access::Allow)
    }

    /// Everybody is denied, which leaves the admins.
    pub fn nobody() -> Rules {
        Rules::new().with(EVERYBODY, Access::Deny)
    }

    /// These rules with one more; a rule for the same reference is replaced. The reference is taken as it is.
    pub fn with(mut self, reference: &str, access: Access) -> Rules {
        self.0.insert(reference.to_owned(), access);
        self
    }

    /// Reads `{"<reference>":"allow"|"deny"}`; `null` is no rules.
    ///
    /// References are brought into canonical form. Of two rules for one reference the last wins.
    ///
    /// # Errors
    /// [`Error::BadRequest`]: not such an object, another word than allow and deny, or a reference that is neither `*` nor the id of a
    /// user or a role. A rule that is not understood must not be dropped: it may be the one that protects the object.
    pub fn from_json(raw: &str) -> Result<Rules, Error> {
        let rules: Option<BTreeMap<String, Access>> =
            serde_json::from_str(raw).map_err(|error| Error::BadRequest(bad("rules", &error)))?;
        Rules::checked(rules.unwrap_or_default())
    }

    /// The rules with canonical references; see [`Rules::from_json`].
    pub(crate) fn checked(rules: BTreeMap<String, Access>) -> Result<Rules, Error> {
        let mut checked = BTreeMap::new();
        for (reference, access) in rules {
            let reference = match id::parse_object_id(&reference) {
                Some((bucket @ ("User" | "Role"), key)) => id::object_id(bucket, &key),
                _ if reference == EVERYBODY => reference,
                _ => {
                    return Err(Error::BadRequest(format!(
                        "bad rules: {:?} is neither *, a user nor a role",
                        json::excerpt(&reference)
                    )));
                }
            };
            checked.insert(reference, access);
        }
        Ok(Rules(checked))
    }

    /// Whether `principal` may, by contract section 7.2:
    ///
    /// 1. an admin may;
    /// 2. else whoever is denied, in person, by a role or by `*`, may not;
    /// 3. else, if nobody is named as allowed, everybody may;
    /// 4. else those who are allowed may.
    pub fn permits(&self, principal: &Principal) -> bool {
        self.is_empty() || principal.is_admin() || self.permits_by_rule(principal)
    }

    /// Steps 2 to 4 of [`Rules::permits`], for what binds admins too.
    pub(crate) fn permits_by_rule(&self, principal: &Principal) -> bool {
        let mut restricted = false;
        let mut allowed = false;
        for (reference, access) in &self.0 {
            match access {
                Access::Deny if principal.is_meant_by(reference) => return false,
                Access::Deny => {}
                Access::Allow => {
                    restricted = true;
                    allowed = allowed || principal.is_meant_by(reference);
                }
            }
        }
        allowed || !restricted
    }

    /// Whether everybody may, also callers that nothing is known about: what a shared cache may keep.
    pub fn is_public(&self) -> bool {
        let denied = self.0.values().any(|access| *access == Access::Deny);
        let restricted = self.0.values().any(|access| *access == Access::Allow);
        !denied && (!restricted || self.0.contains_key(EVERYBODY))
    }

    /// Whether `*` is denied.
    pub fn denies_everybody(&self) -> bool {
        self.0.get(EVERYBODY) == Some(&Access::Deny)
    }

    /// Whether there are no rules.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The rules in the order of their references.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Access)> {
        self.0
            .iter()
            .map(|(reference, access)| (reference.as_str(), *access))
    }

    /// Appends the JSON form.
    pub(crate) fn write_json(&self, out: &mut Vec<u8>) {
        out.push(b'{');
        for (at, (reference, access)) in self.0.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            json::write_string(out, reference);
            out.extend_from_slice(match access {
                Access::Allow => b":\"allow\"",
                Access::Deny => b":\"deny\"",
            });
        }
        out.push(b'}');
    }

    /// Upper bound of what [`Rules::write_json`] appends, unless references need escapes, which ids do not.
    fn json_bytes(&self) -> usize {
        2 + self
            .0
            .keys()
            .map(|reference| reference.len() + 11)
            .sum::<usize>()
    }
}

/// The ACL of one object. Both maps empty means the same as no ACL.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acl {
    /// Who may load the object and find it in queries.
    pub read: Rules,
    /// Who may update and delete it, and change this ACL.
    pub write: Rules,
}

impl Acl {
    /// Reads the member `acl` of a body: `{"read":{…},"write":{…}}`, either part absent or `null` for no rules. `null` is `None`.
    ///
    /// # Errors
    /// [`Error::BadRequest`]: another shape, another member, or rules that [`Rules::from_json`] refuses. Unknown members are not
    /// ignored, since a misspelt `raed` would publish the object.
    pub fn from_json(raw: &str) -> Result<Option<Acl>, Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Wire {
            #[serde(default)]
            read: Option<BTreeMap<String, Access>>,
            #[serde(default)]
            write: Option<BTreeMap<String, Access>>,
        }
        // `serde` reads structures from arrays too, and the empty one would be public.
        if raw.trim_start().starts_with('[') {
            return Err(Error::BadRequest("bad acl: expected an object".to_owned()));
        }
        let wire: Option<Wire> =
            serde_json::from_str(raw).map_err(|error| Error::BadRequest(bad("acl", &error)))?;
        let Some(wire) = wire else { return Ok(None) };
        Ok(Some(Acl {
            read: Rules::checked(wire.read.unwrap_or_default())?,
            write: Rules::checked(wire.write.unwrap_or_default())?,
        }))
    }

    /// The JSON form: `{"read":{…},"write":{…}}`, without blanks, rules in the order of their references.
    pub fn to_json(&self) -> String {
        let mut out = Vec::with_capacity(self.json_bytes());
        self.write_json(&mut out);
        // Only whole strings and ASCII were written, so nothing is ever replaced here.
        String::from_utf8(out)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
    }

    /// Whether there is no rule at all, so that everybody may read and write.
    pub fn is_public(&self) -> bool {
        self.read.is_empty() && self.write.is_empty()
    }

    /// Appends the JSON form.
    pub(crate) fn write_json(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"read\":");
        self.read.write_json(out);
        out.extend_from_slice(b",\"write\":");
        self.write.write_json(out);
        out.push(b'}');
    }

    /// See [`Rules::json_bytes`].
    pub(crate) fn json_bytes(&self) -> usize {
        18 + self.read.json_bytes() + self.write.json_bytes()
    }
}

/// The message for JSON of another shape. `serde` names what it did not expect, so a part of it is enough.
fn bad(what: &str, error: &serde_json::Error) -> String {
    format!("bad {what}: {}", json::excerpt(&error.to_string()))
}

/// Whether `principal` may read an object with this ACL. No ACL is public.
pub fn may_read(acl: Option<&Acl>, principal: &Principal) -> bool {
    acl.is_none_or(|acl| acl.read.permits(principal))
}

/// Whether `principal` may change or delete an object with this ACL. No ACL is public.
pub fn may_write(acl: Option<&Acl>, principal: &Principal) -> bool {
    acl.is_none_or(|acl| acl.write.permits(principal))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(user: &str, roles: &[&str]) -> Principal {
        Principal {
            user: Some(user.to_owned()),
            roles: roles.iter().map(|&role| role.to_owned()).collect(),
        }
    }

    #[test]
    fn evaluation_follows_the_contract() {
        let anonymous = Principal::anonymous();
        let alice = caller("/db/User/10", &["/db/Role/3"]);
        let editor = caller("/db/User/11", &["/db/Role/3", "/db/Role/7"]);
        let root = Principal::root();
        // Rules, then who may: anonymous, alice, editor, root.
        for (rules, expected) in [
            (r#"{}"#, [true, true, true, true]),
            (r#"{"*":"deny"}"#, [false, false, false, true]),
            (r#"{"*":"allow"}"#, [true, true, true, true]),
            (r#"{"/db/User/10":"allow"}"#, [false, true, false, true]),
            (r#"{"/db/User/10":"deny"}"#, [true, false, true, true]),
            (r#"{"/db/Role/7":"allow"}"#, [false, false, true, true]),
            (
                r#"{"/db/Role/3":"allow","/db/Role/7":"deny"}"#,
                [false, true, false, true],
            ),
            (
                r#"{"/db/User/11":"allow","/db/Role/7":"deny"}"#,
                [false, false, false, true],
            ),
            (r#"{"/db/Role/1":"deny"}"#, [true, true, true, true]),
            (r#"{"/db/Role/1":"allow"}"#, [false, false, false, true]),
        ] {
            let rules = Rules::from_json(rules).expect("valid");
            let got =
                [&anonymous, &alice, &editor, &root].map(|principal| rules.permits(principal));
            assert_eq!(got, expected, "{rules:?}");
        }
    }

    #[test]
    fn public_means_nobody_is_left_out() {
        for (rules, public) in [
            (r#"{}"#, true),
            (r#"{"*":"allow","/db/User/1":"allow"}"#, true),
            (r#"{"/db/User/1":"allow"}"#, false),
            (r#"{"*":"allow","/db/User/9":"deny"}"#, false),
            (r#"{"*":"deny"}"#, false),
        ] {
            assert_eq!(
                Rules::from_json(rules).expect("valid").is_public(),
                public,
                "{rules}"
            );
        }
    }

    #[test]
    fn acl_round_trips_in_canonical_form() {
        let raw =
            r#"{ "write": {"/db/User/%61":"allow"}, "read": {"*":"deny","/db/Role/2":"allow"} }"#;
        let acl = Acl::from_json(raw).expect("valid").expect("not null");
        assert_eq!(
            acl.to_json(),
            r#"{"read":{"*":"deny","/db/Role/2":"allow"},"write":{"/db/User/a":"allow"}}"#
        );
        assert_eq!(Acl::from_json(&acl.to_json()), Ok(Some(acl.clone())));
        assert!(acl.to_json().len() <= acl.json_bytes());
        assert!(!acl.is_public());
    }

    #[test]
    fn empty_and_absent_parts_are_public() {
        assert_eq!(Acl::from_json("null"), Ok(None));
        for raw in ["{}", r#"{"read":{}}"#, r#"{"read":null,"write":{}}"#] {
            assert!(
                Acl::from_json(raw)
                    .expect("valid")
                    .expect("not null")
                    .is_public(),
                "{raw}"
            );
        }
        assert!(
            may_read(None, &Principal::anonymous()) && may_write(None, &Principal::anonymous())
        );
    }

    #[test]
    fn rules_that_are_not_understood_are_refused() {
        for raw in [
            "1",
            "[]",
            r#""public""#,
            r#"{"raed":{}}"#,
            r#"{"read":[]}"#,
            r#"{"read":{"/db/User/1":"yes"}}"#,
            r#"{"read":{"/db/User/1":true}}"#,
            r#"{"read":{"/db/Todo/1":"allow"}}"#,
            r#"{"read":{"User/1":"allow"}}"#,
            r#"{"write":{"":"deny"}}"#,
        ] {
            assert!(
                matches!(Acl::from_json(raw), Err(Error::BadRequest(_))),
                "{raw}"
            );
        }
    }

    #[test]
    fn object_rights_are_read_and_write_apart() {
        let acl = Acl {
            read: Rules::new(),
            write: Rules::new().with("/db/User/10", Access::Allow),
        };
        assert!(may_read(Some(&acl), &Principal::anonymous()));
        assert!(!may_write(Some(&acl), &Principal::anonymous()));
        assert!(may_write(Some(&acl), &caller("/db/User/10", &[])));
        assert!(may_write(Some(&acl), &Principal::root()));
    }
}
