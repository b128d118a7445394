//! Another user name, confirmed by a mail to it.

use serde_json::{Value, json};

use super::change::Ends;
use super::mails::{check_name, is_address, link, nonce, used};
use super::record::USERNAME;
use crate::Core;
use crate::auth::token::Kind;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::users::User;

/// Hidden member: the name that the user wants, and what the mail to it names.
const NEW_NAME: &str = "_newName";

impl Core {
    /// Has a mail sent to the new address. Whether another user has that name, the answer does not tell.
    pub(crate) async fn want_name(
        &self,
        ctx: &Context,
        name: &str,
        new_name: &str,
        password: &str,
    ) -> Result<()> {
        let state = self.begin_account(ctx).await?;
        let database = self.database_of(ctx, &state)?;
        if !self.options.accounts.verify_mail {
            return Err(Error::bad_request(
                "names are changed by admins here: mail addresses are not verified (accounts.verify_mail)",
            ));
        }
        check_name(new_name)?;
        if !is_address(new_name) {
            return Err(Error::bad_request("the new name must be a mail address"));
        }
        let user = Box::pin(self.prove(ctx, &state, database, name, password)).await?;
        let nonce = nonce();
        let wish = json!({ "name": new_name, "nonce": nonce });
        let set = |user: &mut User| {
            user.hidden.insert(NEW_NAME.to_owned(), wish.clone());
            Ok(true)
        };
        let changed = self.change_user(
            &state,
            database,
            &user.key,
            Ends::Nothing,
            ctx.deadline,
            set,
        );
        let user = Box::pin(changed).await?;
        let texts = vec![nonce];
        let token = self.mail_token(&state, database, &user, Kind::NameChange, texts)?;
        let link = link(&self.options.accounts.rename_link, Some("token"), &token);
        let text = format!(
            "{name} wants to be called {new_name}. Open this link within an hour to confirm that:\n\n{link}\n\nIf it was not you, there is nothing to do.\n"
        );
        self.mail(new_name, "Please confirm your new address", text)
            .await
    }

    /// Gives a user the name that it wanted, by the token of the mail to it.
    ///
    /// # Errors
    /// `BadCredentials`: the link is no good. `ValueTaken`: another user has the name by now.
    pub(crate) async fn verify_name(&self, ctx: &Context, token: &str) -> Result<()> {
        let state = self.begin_account(ctx).await?;
        let database = self.database_of(ctx, &state)?;
        let claims = self.mail_claims(&state, database, Kind::NameChange, token)?;
        let rename = |user: &mut User| {
            let wish = user.hidden.remove(NEW_NAME).unwrap_or_default();
            if wish["nonce"].as_str() != claims.texts.first().map(String::as_str) {
                return Err(used());
            }
            let name = wish["name"].as_str().ok_or_else(used)?;
            user.members
                .insert(USERNAME.to_owned(), Value::String(name.to_owned()));
            Ok(true)
        };
        let changed = self.change_user(
            &state,
            database,
            &claims.user,
            Ends::Nothing,
            ctx.deadline,
            rename,
        );
        Box::pin(changed).await.map(|_| ())
    }
}
