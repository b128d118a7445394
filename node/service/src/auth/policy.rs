//! What the service grants or refuses beyond the ACL of stored objects: the rules of classes, predefined users and roles, reserved keys,
//! and whose a new user is (contract sections 3.2, 7 and 8.1).

use cluster::state::Database;
use document::acl::{Access, Acl, Principal, ROOT_USER, Rules};
use document::id::object_id;
use document::schema::{Class, Operation};
use proto::ErrorCode;
use serde_json::json;

use crate::context::Condition;
use crate::error::{Error, Result};

/// Bucket of the users.
pub const USERS: &str = "User";
/// Bucket of the roles.
pub const ROLES: &str = "Role";
/// Name of the predefined administrator.
pub const ROOT_NAME: &str = "root";
/// Hidden member of a user that holds the password hash.
pub const PASSWORD_MEMBER: &str = "_password";

/// Keys below this number are for predefined users and roles.
const RESERVED_BELOW: u64 = 10;

/// Whether the key is kept for predefined users and roles.
pub fn is_reserved(bucket: &str, key: &str) -> bool {
    matches!(bucket, USERS | ROLES)
        && key
            .parse::<u64>()
            .is_ok_and(|number| number < RESERVED_BELOW)
}

/// Refuses everybody but admins.
///
/// # Errors
/// `PermissionDenied`.
pub fn require_admin(principal: &Principal) -> Result<()> {
    if principal.is_admin() {
        return Ok(());
    }
    Err(Error::new(
        ErrorCode::PermissionDenied,
        "only admins may do this",
    ))
}

/// Refuses what the rules of a bucket's class do not let the caller do with its documents.
///
/// Judged by the leader of the document's shard under the schema that a write is stamped with, so no write can land under rules that
/// were replaced before. The rules are parsed with the schema, not with the request.
///
/// # Errors
/// `PermissionDenied`; `BucketNotFound` if there is no such class.
pub fn check_class(
    database: &Database,
    bucket: &str,
    operation: Operation,
    caller: &Principal,
) -> Result<()> {
    let class = find_class(database, bucket)?;
    if class.permits(operation, caller) {
        return Ok(());
    }
    let message = format!("class {bucket} does not let the caller {operation} documents");
    Err(Error::new(ErrorCode::PermissionDenied, message))
}

/// Under which condition somebody may put a document whose key he names.
///
/// The server makes the keys of users and roles (contract 3.2): rules may name one that is not there yet, or no more, and whoever could
/// choose that key would get what they allow. So only admins name the key of a new one; others change those that are there.
///
/// # Errors
/// `PermissionDenied`: it would be a new one.
pub fn condition_of_named(
    bucket: &str,
    condition: Condition,
    caller: &Principal,
) -> Result<Condition> {
    if !matches!(bucket, USERS | ROLES) || caller.is_admin() {
        return Ok(condition);
    }
    match condition {
        Condition::Absent => {
            let message = format!(
                "only admins choose the id of a new document of bucket {bucket}: send none, and take it from the answer"
            );
            Err(Error::new(ErrorCode::PermissionDenied, message))
        }
        Condition::None => Ok(Condition::Exists),
        Condition::Exists | Condition::Version(_) => Ok(condition),
    }
}

/// Refuses those whom the rules of a bucket's class do not let change what belongs to its schema, indexes included. Admins alone, unless a rule
/// lets somebody.
///
/// # Errors
/// As [`check_class`].
pub fn check_schema_right(
    database: &Database,
    bucket: &str,
    operation: Operation,
    caller: &Principal,
) -> Result<()> {
    let class = find_class(database, bucket)?;
    // Without rules it is for admins: no class is public by having said nothing.
    let is_said = caller.is_admin() || !class.acl.rules(operation).is_empty();
    if is_said && class.permits(operation, caller) {
        return Ok(());
    }
    let message = format!("this needs the right {operation} on class {bucket}");
    Err(Error::new(ErrorCode::PermissionDenied, message))
}

fn find_class<'d>(database: &'d Database, bucket: &str) -> Result<&'d Class> {
    let class = database.schema.class(bucket);
    class.ok_or_else(|| Error::bucket_not_found(bucket))
}

/// The ACL of a new user whose creator named none: the user's own.
pub fn owner_acl(user_key: &str) -> Acl {
    let owner = Rules::new().with(&object_id(USERS, user_key), Access::Allow);
    Acl {
        read: owner.clone(),
        write: owner,
    }
}

/// Hidden members that hold a password hash.
pub fn hidden_password(hash: &str) -> String {
    json!({ PASSWORD_MEMBER: hash }).to_string()
}

/// A document that every database begins with.
#[derive(Clone, Debug, PartialEq)]
pub struct Predefined {
    /// Bucket name.
    pub bucket: &'static str,
    /// Key.
    pub key: &'static str,
    /// JSON body as a client would send it.
    pub body: String,
    /// Hidden members, JSON; empty for none.
    pub hidden: String,
}

/// Root and the roles, in an order that is safe to stop at: until the last one is written nobody but root is named in any of them.
pub fn predefined(root_password_hash: &str) -> Vec<Predefined> {
    let root = json!({ "username": ROOT_NAME, "acl": acl_json(&owner_acl("1")) });
    vec![
        Predefined {
            bucket: USERS,
            key: "1",
            body: root.to_string(),
            hidden: hidden_password(root_password_hash),
        },
        role("1", "admin", &[ROOT_USER]),
        role("2", "node", &[]),
        role("3", "loggedin", &[]),
    ]
}

/// A role that everybody may read and admins may change.
fn role(key: &'static str, name: &str, users: &[&str]) -> Predefined {
    let acl = Acl {
        read: Rules::new(),
        write: Rules::admin_only(),
    };
    let body = json!({ "name": name, "users": users, "acl": acl_json(&acl) });
    Predefined {
        bucket: ROLES,
        key,
        body: body.to_string(),
        hidden: String::new(),
    }
}

fn acl_json(acl: &Acl) -> serde_json::Value {
    json!(acl)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_numbers_of_users_and_roles_are_reserved() {
        for (bucket, key, reserved) in [
            ("User", "1", true),
            ("Role", "9", true),
            ("User", "09", true),
            ("User", "10", false),
            ("User", "a", false),
            ("Todo", "1", false),
        ] {
            assert_eq!(is_reserved(bucket, key), reserved, "{bucket}/{key}");
        }
    }

    #[test]
    fn keys_of_new_users_and_roles_are_chosen_by_admins_alone() {
        let nobody = Principal::anonymous();
        for bucket in [USERS, ROLES] {
            let named = |condition| condition_of_named(bucket, condition, &nobody);
            let refused = named(Condition::Absent).map_err(|error| error.code);
            assert_eq!(refused, Err(ErrorCode::PermissionDenied));
            assert_eq!(named(Condition::None), Ok(Condition::Exists));
            assert_eq!(named(Condition::Version(3)), Ok(Condition::Version(3)));
            let by_root = condition_of_named(bucket, Condition::Absent, &Principal::root());
            assert_eq!(by_root, Ok(Condition::Absent));
        }
        let other = condition_of_named("Todo", Condition::None, &nobody);
        assert_eq!(other, Ok(Condition::None));
    }

    #[test]
    fn a_new_user_is_its_own() {
        let acl = owner_acl("a b");
        assert_eq!(
            acl.to_json(),
            r#"{"read":{"/db/User/a%20b":"allow"},"write":{"/db/User/a%20b":"allow"}}"#
        );
    }

    #[test]
    fn the_predefined_are_root_and_three_roles() {
        let all = predefined("$argon2id$x");
        let ids: Vec<_> = all
            .iter()
            .map(|one| object_id(one.bucket, one.key))
            .collect();
        assert_eq!(
            ids,
            ["/db/User/1", "/db/Role/1", "/db/Role/2", "/db/Role/3"]
        );
        assert_eq!(all[0].hidden, r#"{"_password":"$argon2id$x"}"#);
        assert!(all[1].body.contains(r#""users":["/db/User/1"]"#));
        assert!(all[1].body.contains(r#""write":{"/db/Role/1":"allow"}"#));
    }
}
