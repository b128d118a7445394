//! One database's rights as this node knows them.
//!
//! Invariants:
//! - [`Copy::judge`] answers only from a copy that is complete and confirmed within the bound; what it says held everywhere at the time
//!   of that confirmation.
//! - Of each user the highest version counts, in whatever order the parts come; ends of sessions leave only when the shard forgot them.
//! - It has at most as many rows as it may: members of roles, roles, and users whose sessions ended. One that would have more is given up.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use document::acl::{ADMIN_ROLE, LOGGED_IN_ROLE, Principal};
use document::id::object_id;
use parking_lot::RwLock;

use crate::auth::policy::{ROLES, USERS};
use crate::auth::token::Claims;
use crate::forward::Rights as Part;

/// What a copy says of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is good, for this caller.
    Good(Principal),
    /// Its sessions ended, or it acts in a role that its user lost.
    Over,
    /// The copy is too old, or not there yet.
    Stale,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Copy(RwLock<Known>);

#[derive(Default)]
struct Known {
    /// All roles were read once, and everything that changed up to `upto` since.
    complete: bool,
    upto: u64,
    /// Monotonic time before the question that was answered last; `None`: never, or outdated.
    confirmed: Option<Duration>,
    /// How often it was outdated: a question from before says nothing.
    outdated: u64,
    /// How often it was begun: parts of an earlier copy say nothing.
    begun: u64,
    /// Of each user key the version below which sessions are over, and the index that said so.
    ended: HashMap<String, (u64, u64)>,
    /// What was forgotten last.
    forgotten: u64,
    /// The same users by index.
    order: BTreeMap<u64, Vec<String>>,
    /// By key of the role; of one that is gone, without users.
    members: HashMap<String, Members>,
    /// Full ids of roles by full id of the user.
    roles: HashMap<String, Vec<String>>,
    /// Members of all roles together.
    memberships: usize,
    /// The last try to read all of it was given up: there is too much.
    is_too_large: bool,
}

/// What became of a part of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// It is in, or was not needed any more.
    In,
    /// The shard has forgotten what would have to come first.
    Forgotten,
    /// The copy would have more rows than it may, and is given up.
    TooLarge,
}

#[derive(Default)]
struct Members {
    /// The index at which they were read: answers may overtake each other.
    seen: u64,
    /// Full ids.
    users: Vec<String>,
}

/// What a copy knew when a question about it was made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    /// Where to go on; `None`: it must be read from the beginning.
    pub(super) after: Option<u64>,
    outdated: u64,
    begun: u64,
}

impl Copy {
    /// Judges the claims of a token whose signature and life are good.
    pub(crate) fn judge(&self, claims: &Claims, now: Duration, age_max: Duration) -> Verdict {
        let known = self.0.read();
        let is_fresh = |confirmed: Duration| now.saturating_sub(confirmed) <= age_max;
        if !known.complete || !known.confirmed.is_some_and(is_fresh) {
            return Verdict::Stale;
        }
        let ended = known.ended.get(&claims.user);
        if ended.is_some_and(|(version, _)| claims.version < *version) {
            return Verdict::Over;
        }
        let user = object_id(USERS, &claims.user);
        let own = known.roles_of(&user);
        let mut roles = match claims.texts.first() {
            // An assumed role: it alone, as long as its user might assume it.
            Some(role) => {
                let role = object_id(ROLES, role);
                if !own.contains(&role) && !own.iter().any(|role| role == ADMIN_ROLE) {
                    return Verdict::Over;
                }
                vec![role]
            }
            None => own.to_vec(),
        };
        roles.retain(|role| role != LOGGED_IN_ROLE);
        roles.push(LOGGED_IN_ROLE.to_owned());
        Verdict::Good(Principal {
            user: Some(user),
            roles,
        })
    }

    /// A user with all roles that the copy knows of, however old that is; `None`: it was never complete.
    pub(crate) fn principal(&self, key: &str) -> Option<Principal> {
        let known = self.0.read();
        let user = object_id(USERS, key);
        let mut roles = known.roles_of(&user).to_vec();
        roles.retain(|role| role != LOGGED_IN_ROLE);
        roles.sort_unstable();
        roles.push(LOGGED_IN_ROLE.to_owned());
        known.complete.then_some(Principal {
            user: Some(user),
            roles,
        })
    }

    /// When the copy was confirmed last, if it can judge.
    pub(crate) fn confirmed(&self) -> Option<Duration> {
        let known = self.0.read();
        known.confirmed.filter(|_| known.complete)
    }

    /// Users whose sessions ended, and roles, that the copy holds.
    pub(crate) fn size(&self) -> (usize, usize) {
        let known = self.0.read();
        (known.ended.len(), known.members.len())
    }

    /// See [`super::Rights::outdate`].
    pub(super) fn outdate(&self) {
        let mut known = self.0.write();
        known.confirmed = None;
        known.outdated += 1;
    }

    /// What a question is to be about.
    pub(super) fn asked(&self) -> Asked {
        let known = self.0.read();
        Asked {
            after: known.complete.then_some(known.upto),
            outdated: known.outdated,
            begun: known.begun,
        }
    }

    /// Forgets everything, to be read from the beginning.
    pub(super) fn begin(&self) {
        let mut known = self.0.write();
        *known = known.begun_anew();
    }

    /// Whether it was given up, having more rows than it may, and was not read whole since.
    pub(crate) fn is_too_large(&self) -> bool {
        self.0.read().is_too_large
    }

    /// All roles are known, by questions of this copy.
    pub(super) fn complete(&self, asked: Asked) {
        let mut known = self.0.write();
        if known.begun == asked.begun {
            known.complete = true;
            known.is_too_large = false;
        }
    }

    /// Takes in a part, the answer to a question, as long as there are no more than `rows_max` rows then.
    pub(super) fn take(&self, asked: Asked, part: Part, rows_max: usize) -> Taken {
        let mut known = self.0.write();
        if known.begun != asked.begun {
            return Taken::In;
        }
        let is_reading_roles = asked.after.is_none();
        if !is_reading_roles && known.upto > 0 && known.upto < part.forgotten {
            return Taken::Forgotten;
        }
        for role in part.roles {
            known.set_members(role.key, role.users, part.upto);
        }
        for role in part.gone {
            known.set_members(role, Vec::new(), part.upto);
        }
        for ended in part.ended {
            if let Some(user) = ended.user {
                known.end(user.key, user.version, ended.index);
            }
        }
        if !is_reading_roles {
            known.upto = known.upto.max(part.upto);
            known.forget(part.forgotten);
        }
        if known.rows() > rows_max {
            *known = Known {
                is_too_large: true,
                ..known.begun_anew()
            };
            return Taken::TooLarge;
        }
        Taken::In
    }

    /// The copy is as new as it was when a question was sent that is answered now.
    pub(super) fn confirm(&self, asked: Asked, sent: Duration) {
        let mut known = self.0.write();
        if known.complete && (known.outdated, known.begun) == (asked.outdated, asked.begun) {
            known.confirmed = known.confirmed.max(Some(sent));
        }
    }
}

impl Known {
    /// The same copy with nothing in it.
    fn begun_anew(&self) -> Known {
        Known {
            outdated: self.outdated,
            begun: self.begun + 1,
            is_too_large: self.is_too_large,
            ..Known::default()
        }
    }

    fn rows(&self) -> usize {
        self.ended.len() + self.members.len() + self.memberships
    }

    fn roles_of(&self, user: &str) -> &[String] {
        self.roles.get(user).map(Vec::as_slice).unwrap_or_default()
    }

    fn set_members(&mut self, role: String, users: Vec<String>, seen: u64) {
        let id = object_id(ROLES, &role);
        let known = self.members.entry(role).or_default();
        if known.seen > seen {
            return;
        }
        known.seen = seen;
        self.memberships += users.len();
        for user in std::mem::replace(&mut known.users, users.clone()) {
            self.memberships -= 1;
            if let Some(roles) = self.roles.get_mut(&user) {
                roles.retain(|role| *role != id);
                if roles.is_empty() {
                    self.roles.remove(&user);
                }
            }
        }
        for user in users {
            let roles = self.roles.entry(user).or_default();
            if !roles.contains(&id) {
                roles.push(id.clone());
            }
        }
    }

    fn end(&mut self, user: String, version: u64, index: u64) {
        let before = self.ended.get(&user).copied();
        if before.is_some_and(|(known, _)| known >= version) {
            return;
        }
        if let Some((_, index)) = before {
            self.remove_place(&user, index);
        }
        self.order.entry(index).or_default().push(user.clone());
        self.ended.insert(user, (version, index));
    }

    fn remove_place(&mut self, user: &str, index: u64) {
        if let Some(users) = self.order.get_mut(&index) {
            users.retain(|known| known != user);
            if users.is_empty() {
                self.order.remove(&index);
            }
        }
    }

    /// No token is old enough any more for ends of sessions up to this index.
    fn forget(&mut self, upto: u64) {
        let kept = self.order.split_off(&upto.saturating_add(1));
        for user in std::mem::replace(&mut self.order, kept)
            .into_values()
            .flatten()
        {
            self.ended.remove(&user);
        }
        if upto > self.forgotten {
            self.forgotten = upto;
            self.members
                .retain(|_, members| !members.users.is_empty() || members.seen > upto);
        }
    }
}

#[cfg(test)]
mod tests;
