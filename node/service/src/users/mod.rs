//! Users: documents of bucket `User` with hidden members, and what happens to them (contract section 8).
//!
//! A user is an ordinary document; password hash, nonces of mails and the like are **hidden members** beside it, which no answer shows.
//! What the service does to a user goes the ordinary way of a write, as root: condition on the version, unique index of the names,
//! change event, and started over when somebody else was faster. So it can neither be lost nor happen by halves.
//!
//! | module | owns |
//! |---|---|
//! | `record` | a user as the service reads it |
//! | `find` | reading one, by key or by name |
//! | `change` | changing members and hidden members of a user at once, and making one |
//! | `register` | registration, and confirming a mail address |
//! | `password` | changing, removing and resetting passwords |
//! | `rename` | another user name |
//! | `second_factor` | codes of an authenticator app |
//! | `api_token` | tokens without an end, for programs |
//! | `oauth` | log-in with a provider, and the user that it stands for |
//! | `caller` | callers that no session stands behind |
//! | `bearer` | callers with the JWT of a trusted issuer |
//! | `mails` `resets` | what is written to users, and the tokens in it; wishes for mails that wait |
//! | `session` | assuming a role, logging out everywhere |
//! | `attempts` | how often somebody may try |
//! | `accounts` | what an operator decides |
//! | `facade` | all of it for the edges |
//!
//! Invariants:
//! - Whatever ends a user's sessions is marked in the very write that is the reason ([`change::Ends`]); see [`crate::rights`].
//! - No answer tells whether a user name exists, except the refusal to register it.
//! - A mail's token works once: it names a nonce among the hidden members, which its use removes.
//!
//! Lacks: sessions and tokens themselves (`sessions`, [`crate::auth::token`]), and sending mails (a port).

mod accounts;
mod api_token;
mod attempts;
mod bearer;
mod caller;
mod change;
mod facade;
mod find;
mod mails;
pub mod oauth;
mod password;
mod record;
mod register;
mod rename;
mod resets;
pub mod second_factor;
mod session;

pub use self::accounts::Accounts;
pub use self::register::{Registered, Registration};

pub(crate) use self::attempts::Attempts;
pub(crate) use self::caller::Rechecks;
pub(crate) use self::record::User;
pub(crate) use self::resets::Resets;
