//! The rules of the contract (7.2 and 7.3) in their plainest form, to compare nodes with. Knows nothing of how nodes judge.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// Rules: reference to whether it is allowed.
pub type Rules = BTreeMap<String, bool>;

/// The form of the contract.
pub fn rules_to_json(rules: &Rules) -> Value {
    let rules = rules.iter();
    rules
        .map(|(reference, allow)| {
            let access = if *allow { "allow" } else { "deny" };
            (reference.clone(), json!(access))
        })
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// The rules of one object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acl {
    /// Who may see it.
    pub read: Rules,
    /// Who may change it.
    pub write: Rules,
}

impl Acl {
    /// The form of the contract.
    pub fn to_json(&self) -> Value {
        json!({ "read": rules_to_json(&self.read), "write": rules_to_json(&self.write) })
    }
}

/// Who asks: every reference that means the caller.
#[derive(Clone, Debug, Default)]
pub struct Caller {
    /// `/db/User/…` and `/db/Role/…`; none for nobody.
    pub references: Vec<String>,
}

/// The steps of 7.2, one after the other.
pub fn grants(rules: &Rules, caller: &Caller) -> bool {
    let is_meant =
        |reference: &str| reference == "*" || caller.references.iter().any(|own| own == reference);
    if caller.references.iter().any(|own| own == "/db/Role/1") {
        return true;
    }
    if rules
        .iter()
        .any(|(reference, allow)| !allow && is_meant(reference))
    {
        return false;
    }
    if !rules.values().any(|allow| *allow) {
        return true;
    }
    rules
        .iter()
        .any(|(reference, allow)| *allow && is_meant(reference))
}

/// What a caller tries to do with one document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// Load it.
    Load,
    /// Insert it; refused if it is there.
    Insert(Acl),
    /// Replace it; refused if it is not there.
    Replace(Acl),
    /// Store it either way.
    Upsert(Acl),
    /// Change a part of it.
    Change,
    /// Delete it.
    Delete,
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is done.
    Done,
    /// As if it were not there.
    Missing,
    /// It is there already.
    Exists,
    /// It is not there, and should be.
    OutOfDate,
    /// Refused.
    Denied,
    /// Refused because of the change of the rules.
    AclDenied,
}

impl Verdict {
    /// The code of the answer; `None`: success.
    pub fn code(self) -> Option<&'static str> {
        match self {
            Verdict::Done => None,
            Verdict::Missing => Some("object_not_found"),
            Verdict::Exists => Some("object_exists"),
            Verdict::OutOfDate => Some("object_out_of_date"),
            Verdict::Denied => Some("permission_denied"),
            Verdict::AclDenied => Some("invalid_permission_modification"),
        }
    }
}

/// One bucket as it should be.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// Rules of the class by operation; those that are missing are public.
    pub class: BTreeMap<&'static str, Rules>,
    /// Rules of the documents that are there.
    pub documents: BTreeMap<String, Acl>,
}

impl Model {
    /// Whether the class lets the caller.
    pub fn class_grants(&self, operation: &str, caller: &Caller) -> bool {
        self.class
            .get(operation)
            .is_none_or(|rules| grants(rules, caller))
    }

    /// What must become of an attempt; carries it out if it succeeds.
    pub fn attempt(&mut self, key: &str, attempt: &Attempt, caller: &Caller) -> Verdict {
        let needed: &[&str] = match attempt {
            Attempt::Load => &["load"],
            Attempt::Insert(_) => &["insert"],
            Attempt::Replace(_) | Attempt::Change => &["update"],
            Attempt::Upsert(_) => &["insert", "update"],
            Attempt::Delete => &["delete"],
        };
        if !needed.iter().all(|one| self.class_grants(one, caller)) {
            return Verdict::Denied;
        }
        let Some(stored) = self.documents.get(key).cloned() else {
            return match attempt {
                Attempt::Load | Attempt::Change => Verdict::Missing,
                Attempt::Replace(_) => Verdict::OutOfDate,
                // Deleting what is not there is done already.
                Attempt::Delete => Verdict::Done,
                Attempt::Insert(acl) | Attempt::Upsert(acl) => {
                    self.documents.insert(key.to_owned(), acl.clone());
                    Verdict::Done
                }
            };
        };
        let (reads, writes) = (grants(&stored.read, caller), grants(&stored.write, caller));
        match attempt {
            Attempt::Load if reads => Verdict::Done,
            Attempt::Load => Verdict::Missing,
            Attempt::Insert(_) => Verdict::Exists,
            Attempt::Replace(acl) | Attempt::Upsert(acl) => {
                if !writes && reads && *acl != stored {
                    return Verdict::AclDenied;
                }
                if !writes {
                    return Verdict::Denied;
                }
                self.documents.insert(key.to_owned(), acl.clone());
                Verdict::Done
            }
            Attempt::Change if reads && writes => Verdict::Done,
            Attempt::Delete if writes => {
                self.documents.remove(key);
                Verdict::Done
            }
            Attempt::Change | Attempt::Delete => Verdict::Denied,
        }
    }

    /// The keys that a query, a count and a list show, ascending; `None`: refused.
    pub fn found(&self, caller: &Caller) -> Option<Vec<String>> {
        if !self.class_grants("query", caller) {
            return None;
        }
        let readable = self.documents.iter();
        let readable = readable.filter(|(_, acl)| grants(&acl.read, caller));
        Some(readable.map(|(key, _)| key.clone()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(list: &[(&str, bool)]) -> Rules {
        list.iter()
            .map(|(reference, allow)| ((*reference).to_owned(), *allow))
            .collect()
    }

    fn caller(references: &[&str]) -> Caller {
        Caller {
            references: references.iter().map(|&one| one.to_owned()).collect(),
        }
    }

    #[test]
    fn the_steps_come_in_their_order() {
        let alice = caller(&["/db/User/10", "/db/Role/3"]);
        let root = caller(&["/db/User/1", "/db/Role/1"]);
        for (list, of_alice) in [
            (&[][..], true),
            (&[("*", false)], false),
            (&[("/db/User/11", false)], true),
            (&[("/db/User/11", true)], false),
            (&[("/db/Role/3", true)], true),
            (&[("/db/Role/3", true), ("/db/User/10", false)], false),
        ] {
            assert_eq!(grants(&rules(list), &alice), of_alice, "{list:?}");
            assert!(grants(&rules(list), &root), "{list:?}");
        }
    }

    #[test]
    fn a_refused_attempt_changes_nothing() {
        let mut model = Model::default();
        let (alice, nobody) = (caller(&["/db/User/10"]), caller(&[]));
        let own = Acl {
            read: Rules::new(),
            write: rules(&[("/db/User/10", true)]),
        };
        let insert = Attempt::Insert(own.clone());
        assert_eq!(model.attempt("k", &insert, &alice), Verdict::Done);
        let open = Attempt::Upsert(Acl::default());
        assert_eq!(model.attempt("k", &open, &nobody), Verdict::AclDenied);
        assert_eq!(
            model.attempt("k", &Attempt::Delete, &nobody),
            Verdict::Denied
        );
        assert_eq!(model.documents["k"], own);
        assert_eq!(model.attempt("k", &open, &alice), Verdict::Done);
        assert_eq!(model.attempt("k", &Attempt::Delete, &nobody), Verdict::Done);
    }
}
