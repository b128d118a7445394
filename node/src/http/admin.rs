//! The admin port: metrics, founding the cluster, its status, and handling of single shards. For operators, on loopback by default.
//!
//! It knows no callers: who reaches the port may do everything. What a browser sends on behalf of a foreign page is refused, since
//! loopback is no protection against that.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use futures::future::BoxFuture;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderMap, ORIGIN};
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode};
use metrics_exporter_prometheus::PrometheusHandle;
use proto::{ErrorCode, NodeId, ShardId};
use serde::{Deserialize, Serialize};
use serde_json::json;
use service::{Assignment, Error, InitRequest, ReplaceRequest, Service};

use super::admin_encryption::{self, EncryptionControl};
use super::context::{self, X_REQUEST_ID};
use super::error::{self, refuse};
use super::{Limits, body, caching, governance, respond};
use crate::audit::Log;
use crate::config::Secret;

/// How long founding a cluster may take.
const INIT_TIME: Duration = Duration::from_secs(25);

/// How long the intent to replace a replica may take to be written; longer than a failover.
const REPLACE_TIME: Duration = Duration::from_secs(5);

/// How long a new signing key may take; longer than a failover.
const ROTATE_TIME: Duration = Duration::from_secs(5);

/// Content type of the Prometheus text format.
const METRICS_TYPE: HeaderValue =
    HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// What does not change about a node while it runs.
#[derive(Clone, Debug, Serialize)]
pub struct NodeInfo {
    /// Hexadecimal id.
    pub id: String,
    /// Name for people.
    pub name: String,
    /// Program version.
    pub version: String,
    /// Address for clients.
    pub client: String,
    /// Address for the other nodes.
    pub peer: String,
    /// Address of this port.
    pub admin: String,
    /// Failure zone; empty: none.
    pub zone: String,
}

/// What operators do with the replicas of this node. The node implements it over its Raft groups.
pub trait ShardControl: Send + Sync + 'static {
    /// Takes a snapshot of the shard here; with `purge` drops the log it covers. Gives the log index it stands for.
    fn snapshot(&self, shard: ShardId, purge: bool) -> BoxFuture<'_, Result<u64, Error>>;

    /// Asks the leader here to hand the shard over to the replica on `to`.
    fn transfer(&self, shard: ShardId, to: NodeId) -> BoxFuture<'_, Result<(), Error>>;
}

/// What the handlers share.
struct Admin {
    service: Service,
    metrics: PrometheusHandle,
    node: NodeInfo,
    shards: Arc<dyn ShardControl>,
    root_password: Secret,
    encryption: Option<Arc<dyn EncryptionControl>>,
    limits: Limits,
    audit: Arc<Log>,
}

/// The admin port's routes. `root_password` becomes root's if the cluster is founded without another one; `encryption` is `None` where
/// nothing is sealed.
pub fn admin_app(
    service: Service,
    metrics: PrometheusHandle,
    node: NodeInfo,
    shards: Arc<dyn ShardControl>,
    root_password: Secret,
    audit: Arc<Log>,
    encryption: Option<Arc<dyn EncryptionControl>>,
) -> Router {
    let admin = Admin {
        service,
        metrics,
        node,
        shards,
        root_password,
        encryption,
        limits: Limits::default(),
        audit,
    };
    Router::new().fallback(serve).with_state(Arc::new(admin))
}

async fn serve(State(admin): State<Arc<Admin>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let request_id = context::request_id(&head.headers);
    let outcome = dispatch(&admin, &head, body).await;
    let mut response = outcome.unwrap_or_else(|error| error::response(&error, &request_id));
    if let Ok(id) = HeaderValue::try_from(request_id) {
        response.headers_mut().insert(X_REQUEST_ID, id);
    }
    match head.method {
        Method::HEAD => respond::without_body(response),
        _ => response,
    }
}

async fn dispatch(admin: &Admin, head: &Parts, body: Body) -> Result<Response, Error> {
    check_origin(&head.headers)?;
    let method = match &head.method {
        &Method::HEAD => &Method::GET,
        method => method,
    };
    let path: Vec<&str> = head.uri.path().split('/').skip(1).collect();
    let query = head.uri.query().unwrap_or_default();
    match (method, &path[..]) {
        (&Method::GET, ["metrics"]) => Ok(metrics(admin)),
        (&Method::GET, ["admin", "v1", "node"]) => Ok(node(admin)),
        (&Method::GET, ["admin", "v1", "cluster", "status"]) => {
            Ok(respond::value(&admin.service.cluster_status()))
        }
        (&Method::POST, ["admin", "v1", "cluster", "init"]) => {
            init(admin, body::read(&head.headers, body, &admin.limits).await?).await
        }
        (&Method::POST, ["admin", "v1", "cluster", "rotate-keys"]) => {
            rotate_keys(admin, query).await
        }
        (&Method::POST, ["admin", "v1", "shards", shard, "snapshot"]) => {
            snapshot(admin, shard, query).await
        }
        (&Method::POST, ["admin", "v1", "shards", shard, "transfer"]) => {
            transfer(admin, shard, query).await
        }
        (&Method::POST, ["admin", "v1", "shards", shard, "replace"]) => {
            replace(admin, shard, query).await
        }
        (&Method::GET, ["admin", "v1", "quotas"]) => Ok(respond::value(&admin.service.quotas())),
        (&Method::PUT, ["admin", "v1", "quotas", database]) => {
            let body = body::read(&head.headers, body, &admin.limits).await?;
            governance::set_quota(&admin.service, database, &body).await
        }
        (&Method::GET, ["admin", "v1", "caching"]) => Ok(caching::policies(&admin.service)),
        (&Method::PUT, ["admin", "v1", "caching", database, bucket]) => {
            let body = body::read(&head.headers, body, &admin.limits).await?;
            caching::set_policy(&admin.service, database, bucket, &body).await
        }
        (&Method::GET, ["admin", "v1", "audit"]) => {
            Ok(governance::chains(&admin.service, &admin.node.id))
        }
        (&Method::GET, ["admin", "v1", "audit", chain]) => {
            let after = governance::after(parameter(query, "after"))?;
            governance::part(&admin.service, &admin.node.id, &admin.audit, chain, after).await
        }
        (method, ["admin", "v1", "encryption", rest @ ..]) => {
            let database = parameter(query, "database");
            let control = admin.encryption.as_deref();
            admin_encryption::serve(&admin.service, control, method, rest, database).await
        }
        (
            _,
            ["metrics"]
            | ["admin", "v1", "node"]
            | ["admin", "v1", "cluster", "status" | "init" | "rotate-keys"]
            | ["admin", "v1", "quotas" | "audit" | "caching"]
            | ["admin", "v1", "caching", _, _]
            | ["admin", "v1", "quotas" | "audit", _],
        )
        | (
            _,
            [
                "admin",
                "v1",
                "shards",
                _,
                "snapshot" | "transfer" | "replace",
            ],
        ) => Err(refuse(
            ErrorCode::MethodNotAllowed,
            "this address does not know the method",
        )),
        _ => Err(refuse(ErrorCode::NoRoute, "nothing is at this address")),
    }
}

/// Refuses what a browser sends for a page of another origin.
fn check_origin(headers: &HeaderMap) -> Result<(), Error> {
    let Some(origin) = headers.get(ORIGIN) else {
        return Ok(());
    };
    let authority = origin
        .to_str()
        .ok()
        .and_then(|origin| origin.split_once("://"))
        .map(|(_, authority)| authority);
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    if authority.is_some() && authority == host {
        return Ok(());
    }
    Err(refuse(
        ErrorCode::PermissionDenied,
        "the admin port does not answer pages of other origins",
    ))
}

fn metrics(admin: &Admin) -> Response {
    let mut response = respond::json(StatusCode::OK, admin.metrics.render());
    response.headers_mut().insert(CONTENT_TYPE, METRICS_TYPE);
    response
}

fn node(admin: &Admin) -> Response {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Body<'a> {
        #[serde(flatten)]
        node: &'a NodeInfo,
        cluster_id: Option<String>,
    }
    respond::value(&Body {
        node: &admin.node,
        cluster_id: admin.service.cluster_status().cluster_id,
    })
}

/// `POST /admin/v1/cluster/rotate-keys`: another key signs tokens; with `?only=true` the old ones verify nothing any more.
async fn rotate_keys(admin: &Admin, query: &str) -> Result<Response, Error> {
    let only = form_urlencoded::parse(query.as_bytes())
        .any(|(name, value)| name == "only" && value == "true");
    let deadline = Instant::now() + ROTATE_TIME;
    let key = admin.service.rotate_signing_key(only, deadline).await?;
    Ok(respond::value(&json!({ "key": key })))
}

/// The body of `init`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Init {
    #[serde(default = "shards_default")]
    shards: u32,
    replicas: Option<u32>,
    root_password: Option<String>,
    #[serde(default)]
    demo: bool,
}

fn shards_default() -> u32 {
    service::init::SHARDS_DEFAULT
}

async fn init(admin: &Admin, body: bytes::Bytes) -> Result<Response, Error> {
    // The parser's own message could quote the password.
    let init: Init = serde_json::from_slice(&body).map_err(|_| {
        refuse(
            ErrorCode::SyntaxError,
            "expected a JSON object with shards, replicas, rootPassword and demo, each optional",
        )
    })?;
    let Init {
        shards,
        replicas,
        root_password,
        demo,
    } = init;
    let root_password = match root_password {
        None if admin.root_password.is_set() => Some(configured_password(&admin.root_password)?),
        given => given,
    };
    let request = InitRequest {
        shards,
        replicas,
        root_password,
        demo,
        deadline: Instant::now() + INIT_TIME,
    };
    let outcome = admin.service.init_cluster(request).await?;
    let mut body = json!({ "clusterId": outcome.cluster_id, "created": outcome.created });
    if let Some(password) = outcome.root_password {
        body["rootPassword"] = password.into();
    }
    let mut response = respond::value(&body);
    response
        .headers_mut()
        .insert(CACHE_CONTROL, respond::NO_STORE);
    Ok(response)
}

/// The configured password; where it cannot be read nothing was founded.
fn configured_password(secret: &Secret) -> Result<String, Error> {
    secret.read_line().map_err(|error| {
        refuse(
            ErrorCode::BadRequest,
            format!("security.root_password: {error}"),
        )
    })
}

async fn snapshot(admin: &Admin, shard: &str, query: &str) -> Result<Response, Error> {
    let purge = match parameter(query, "purge") {
        None | Some("false") => false,
        Some("" | "true") => true,
        Some(_) => return Err(refuse(ErrorCode::BadRequest, "purge must be true or false")),
    };
    let index = admin.shards.snapshot(shard_id(shard)?, purge).await?;
    Ok(respond::value(&json!({ "index": index })))
}

async fn transfer(admin: &Admin, shard: &str, query: &str) -> Result<Response, Error> {
    let shard = shard_id(shard)?;
    let to = node_id(query, "to")?.ok_or_else(no_target)?;
    admin.shards.transfer(shard, to).await?;
    Ok(respond::value(
        &json!({ "shard": shard.0, "to": to.to_string() }),
    ))
}

async fn replace(admin: &Admin, shard: &str, query: &str) -> Result<Response, Error> {
    let shard = shard_id(shard)?;
    let request = ReplaceRequest {
        shard,
        to: node_id(query, "to")?.ok_or_else(no_target)?,
        from: node_id(query, "from")?,
        deadline: Instant::now() + REPLACE_TIME,
    };
    let outcome = admin.service.replace_replica(request).await?;
    let place = |assignment: Assignment| json!({ "replica": assignment.replica.0, "node": assignment.node.to_string() });
    Ok(respond::value(&json!({
        "shard": shard.0,
        "begun": outcome.begun,
        "old": place(outcome.old),
        "new": place(outcome.new),
    })))
}

/// A node named by a query parameter.
fn node_id(query: &str, name: &str) -> Result<Option<NodeId>, Error> {
    let Some(text) = parameter(query, name) else {
        return Ok(None);
    };
    u64::from_str_radix(text, 16)
        .map(|id| Some(NodeId(id)))
        .map_err(|_| {
            let message = format!("{name} must be the hexadecimal id of a node");
            refuse(ErrorCode::BadRequest, message)
        })
}

fn no_target() -> Error {
    refuse(
        ErrorCode::BadRequest,
        "to must be the hexadecimal id of a node",
    )
}

fn shard_id(text: &str) -> Result<ShardId, Error> {
    text.parse()
        .map(ShardId)
        .map_err(|_| refuse(ErrorCode::BadRequest, "a shard is a number from 0 up"))
}

/// The value of a query parameter; empty without a value.
fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_other_origins_are_refused() {
        let check = |origin: Option<&'static str>| {
            let mut headers =
                HeaderMap::from_iter([(HOST, HeaderValue::from_static("127.0.0.1:7402"))]);
            headers.extend(origin.map(|origin| (ORIGIN, HeaderValue::from_static(origin))));
            check_origin(&headers).map_err(|error| error.code)
        };
        assert_eq!(check(None), Ok(()));
        assert_eq!(check(Some("http://127.0.0.1:7402")), Ok(()));
        for foreign in ["http://evil.example", "null", "http://127.0.0.1:8080"] {
            assert_eq!(
                check(Some(foreign)),
                Err(ErrorCode::PermissionDenied),
                "{foreign}"
            );
        }
    }

    #[test]
    fn parameters_are_found_by_name() {
        assert_eq!(parameter("a=1&purge=true", "purge"), Some("true"));
        assert_eq!(parameter("purge", "purge"), Some(""));
        assert_eq!(parameter("", "purge"), None);
        assert_eq!(parameter("purged=1", "purge"), None);
    }
}
