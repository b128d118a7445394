//! Registration, and confirming a mail address.

use bytes::Bytes;
use cluster::state::{ClusterState, Database};
use document::acl::Principal;
use document::id::parse_object_id;
use document::schema::Operation;
use proto::{Effect, ErrorCode};
use serde_json::{Map, Value};

use super::attempts::What;
use super::change::{Ends, NewUser};
use super::mails::{check_name, is_address, link, nonce, used};
use super::record::{INACTIVE, USERNAME};
use crate::Core;
use crate::auth::policy::{self, PASSWORD_MEMBER, USERS};
use crate::auth::token::Kind;
use crate::context::{Context, Session};
use crate::error::{Error, Result};
use crate::users::User;

/// Hidden member: what the newest mail that confirms the address names.
pub(super) const VERIFICATION_NONCE: &str = "_verificationNonce";

/// Who wants to register.
#[derive(Clone, Debug)]
pub struct Registration {
    /// The user object, without id.
    pub user: Map<String, Value>,
    /// The password.
    pub password: String,
    /// Whether to log in too.
    pub login: bool,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Registered {
    /// The user is there, and logged in.
    LoggedIn(Session),
    /// The user is there: its object.
    User(Bytes),
    /// The user has a mail with a link, and may log in after following it.
    Mailed,
}

impl Core {
    pub(crate) async fn register(
        &self,
        ctx: &Context,
        registration: Registration,
    ) -> Result<Registered> {
        let state = self.begin_account(ctx).await?;
        let database = self.database_of(ctx, &state)?;
        let caller = self.authenticate(ctx, &state).await?;
        policy::check_class(database, USERS, Operation::Insert, &caller)?;
        let Registration {
            user,
            password,
            login,
        } = registration;
        let (name, mut new) = new_user(database, user, &caller)?;
        let _counted = self.count_try(ctx, What::Register, database, None, &caller)?;
        let hash = self.passwords.hash(check_password(&password)?).await?;
        new.hidden
            .insert(PASSWORD_MEMBER.to_owned(), Value::String(hash));
        let verifies = self.options.accounts.verify_mail && !caller.is_admin();
        if verifies {
            if !is_address(&name) {
                return Err(Error::bad_request("the user name must be a mail address"));
            }
            new.members.insert(INACTIVE.to_owned(), true.into());
            let nonce = Value::String(nonce());
            new.hidden.insert(VERIFICATION_NONCE.to_owned(), nonce);
        }
        let created = self.create_user(&state, database, new, ctx.deadline);
        let user = Box::pin(created).await?;
        if verifies {
            self.mail_verification(&state, database, &user).await.map_err(|error| {
                let message = format!(
                    "the user is registered, but has no mail yet; asking to reset the password sends it again ({})",
                    error.message
                );
                Error::new(ErrorCode::OutcomeUnknown, message).with_effect(Effect::Applied)
            })?;
            return Ok(Registered::Mailed);
        }
        if !login || user.is_inactive() {
            return Ok(Registered::User(user.body));
        }
        Ok(Registered::LoggedIn(
            self.open_session(&state, database, &user)?,
        ))
    }

    /// Sends the mail with the link that confirms a user's address.
    pub(super) async fn mail_verification(
        &self,
        state: &ClusterState,
        database: &Database,
        user: &User,
    ) -> Result<()> {
        let (Some(name), Some(nonce)) = (user.username(), user.hidden_text(VERIFICATION_NONCE))
        else {
            return Err(used());
        };
        let texts = vec![nonce.to_owned()];
        let token = self.mail_token(state, database, user, Kind::Verification, texts)?;
        let link = link(&self.options.accounts.verify_link, Some("token"), &token);
        let text = format!(
            "Please confirm your address by opening this link within 24 hours:\n\n{link}\n\nIf you did not register, there is nothing to do.\n"
        );
        self.mail(name, "Please confirm your address", text).await
    }

    /// Confirms a mail address by the token of a mail; gives the address where a browser goes on.
    pub(crate) async fn verify_address(
        &self,
        ctx: &Context,
        token: &str,
    ) -> Result<Option<String>> {
        let state = self.begin_account(ctx).await?;
        let database = self.database_of(ctx, &state)?;
        let claims = self.mail_claims(&state, database, Kind::Verification, token)?;
        let confirm = |user: &mut User| {
            if user.hidden_text(VERIFICATION_NONCE) != claims.texts.first().map(String::as_str) {
                return Err(used());
            }
            user.hidden.remove(VERIFICATION_NONCE);
            user.members.insert(INACTIVE.to_owned(), false.into());
            Ok(true)
        };
        let changed = self.change_user(
            &state,
            database,
            &claims.user,
            Ends::Nothing,
            ctx.deadline,
            confirm,
        );
        Box::pin(changed).await?;
        let redirect = &self.options.accounts.verified_redirect;
        Ok((!redirect.is_empty()).then(|| redirect.clone()))
    }
}

/// The name and the new user of an object that a client sent.
fn new_user(
    database: &Database,
    mut members: Map<String, Value>,
    caller: &Principal,
) -> Result<(String, NewUser)> {
    let name = match members.get(USERNAME) {
        Some(Value::String(name)) => name.clone(),
        _ => return Err(Error::bad_request("the user needs a username")),
    };
    check_name(&name)?;
    let key = match members.remove("id") {
        None | Some(Value::Null) => None,
        Some(Value::String(id)) if caller.is_admin() => match parse_object_id(&id) {
            Some((bucket, key)) if bucket == USERS => Some(key),
            Some(_) | None => return Err(Error::bad_request("the id is not one of a user")),
        },
        Some(_) => return Err(Error::bad_request("a new user has no id yet")),
    };
    let is_public = |acl: &Value| {
        let no_rules = |rules: Option<&Value>| match rules {
            None | Some(Value::Null) => true,
            Some(rules) => rules.as_object().is_some_and(Map::is_empty),
        };
        acl.is_null()
            || acl
                .as_object()
                .is_some_and(|acl| no_rules(acl.get("read")) && no_rules(acl.get("write")))
    };
    if members.get("acl").is_some_and(is_public) {
        members.remove("acl");
    }
    if !caller.is_admin() {
        let layout = database
            .schema
            .layout(USERS)
            .ok_or_else(|| Error::bucket_not_found(USERS))?;
        let slots = layout.shape().slots().iter();
        for slot in slots.filter(|slot| slot.read_only && slot.name != USERNAME) {
            members.remove(&slot.name);
        }
    }
    let new = NewUser {
        key,
        members,
        hidden: Map::new(),
    };
    Ok((name, new))
}

/// A password that may be one.
pub(super) fn check_password(password: &str) -> Result<&str> {
    if password.is_empty() {
        return Err(Error::bad_request("the password is empty"));
    }
    Ok(password)
}
