//! Encryption at rest on the admin port: which data keys there are, new ones, another master key.

use axum::response::Response;
use futures::future::BoxFuture;
use http::Method;
use proto::ErrorCode;
use serde_json::{Value, json};
use service::audit::{Action, Event};
use service::{Error, Service};
use storage::seal::{KeyState, SealStatus};

use super::error::refuse;
use super::respond;

/// What operators do with the keys of this node. The node implements it over its storage.
pub trait EncryptionControl: Send + Sync + 'static {
    /// Where it stands.
    fn status(&self) -> SealStatus;

    /// New data keys for everything, or for one database, by name. Old values are rewritten in the background.
    fn rotate(&self, database: Option<String>) -> BoxFuture<'_, Result<SealStatus, Error>>;

    /// Reads the configured master key again, and wraps the data keys by it.
    fn rewrap(&self) -> BoxFuture<'_, Result<SealStatus, Error>>;
}

/// Answers below `/admin/v1/encryption`, and notes changes for the audit log; `control` is `None` where nothing is sealed.
pub(super) async fn serve(
    service: &Service,
    control: Option<&dyn EncryptionControl>,
    method: &Method,
    path: &[&str],
    database: Option<&str>,
) -> Result<Response, Error> {
    let control = control.ok_or_else(|| {
        refuse(
            ErrorCode::BadRequest,
            "this node does not seal its disk: set encryption.master_key in its configuration and start it again",
        )
    });
    match (method, path) {
        (&Method::GET, []) => Ok(respond::value(&body(&control?.status()))),
        (&Method::POST, ["rotate"]) => {
            let rotated = control?.rotate(database.map(str::to_owned)).await?;
            service.note(Event::new(Action::DataKeysRotated).on(database.unwrap_or("all")));
            Ok(respond::value(&body(&rotated)))
        }
        (&Method::POST, ["rewrap"]) => {
            let wrapped = control?.rewrap().await?;
            service.note(Event::new(Action::MasterKeyChanged));
            Ok(respond::value(&body(&wrapped)))
        }
        (_, [] | ["rotate" | "rewrap"]) => Err(refuse(
            ErrorCode::MethodNotAllowed,
            "this address does not know the method",
        )),
        _ => Err(refuse(ErrorCode::NoRoute, "nothing is at this address")),
    }
}

fn body(status: &SealStatus) -> Value {
    let key = |key: &KeyState| {
        json!({
            "id": key.id,
            "scope": key.scope.to_string(),
            "retired": key.is_retired,
        })
    };
    json!({
        "keys": status.keys.iter().map(key).collect::<Vec<_>>(),
        "converting": status.is_converting,
        "rewriting": status.is_rewriting,
        "readBytes": status.read_bytes,
        "rewritten": status.rewritten,
    })
}
