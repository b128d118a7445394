//! From the raw path of a request to what it addresses: pure, and without a rule about who may do it.
//!
//! The path is split at `/` while it is still percent-encoded and each part is decoded on its own, because a slash inside a key
//! arrives as `%2F` (contract section 1.1). The first segment names the database unless it is a word of ours or of the contract;
//! `v1`, and no segment at all, mean the default database.
//!
//! Invariants:
//! - Every path has exactly one reading, and parsing never panics.
//! - What the contract names and this version lacks is [`Route::Later`], never [`Route::Unknown`] and never a document: a client must
//!   not take a 404 or a stored document for an answer to a question that was not understood.
//!
//! Lacks: methods. [`Route::methods`] states which ones an address knows; the dispatch is in `edge.rs`.

use std::borrow::Cow;

use document::id::decode_segment;

use super::consumers::ConsumersRoute;
use super::users::UserRoute;

/// Longest name of a database.
const DATABASE_NAME_BYTES_MAX: usize = 63;

/// The name under which the contract's clients address the default database.
const DEFAULT_DATABASE: &str = "v1";

/// The text segments of a path decode to.
type Text<'a> = Cow<'a, str>;

/// Why a path has no reading. The text says it to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    /// The first segment is neither a route word nor the name of a database.
    #[error("the first path segment must be a database: 1 to 63 of A-Z a-z 0-9 _")]
    Database,
    /// A segment has a stray `%` or does not decode to UTF-8.
    #[error("a path segment is not percent-encoded UTF-8")]
    Encoding,
    /// A bucket or a key is empty.
    #[error("a bucket or a key in the path is empty")]
    Empty,
}

/// What a path addresses.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Target<'a> {
    /// Name of the database; empty for the default one.
    pub database: &'a str,
    /// The resource in it.
    pub route: Route<'a>,
}

/// A resource. Buckets and keys are decoded.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Route<'a> {
    /// The list of resources.
    Root,
    /// Schema, session and settings for a starting client.
    Connect,
    /// All class descriptors.
    Schema,
    /// One class descriptor.
    SchemaClass(Text<'a>),
    /// The indexes of a bucket.
    Indexes(Text<'a>),
    /// The list of buckets.
    Buckets,
    /// All documents of a bucket.
    Bucket(Text<'a>),
    /// The ids of a bucket.
    Ids(Text<'a>),
    /// The documents of a bucket that match a filter.
    Query(Text<'a>),
    /// How many they are.
    Count(Text<'a>),
    /// How documents of a bucket that match a filter are found.
    Explain(Text<'a>),
    /// What somebody may do, and why.
    AclCheck,
    /// One document: bucket and key.
    Document(Text<'a>, Text<'a>),
    /// One field of a document: bucket, key and path.
    Field(Text<'a>, Text<'a>, Text<'a>),
    /// Several writes at once.
    Batch,
    /// What changes in the database.
    Changes,
    /// The filter of what is old in web caches.
    BloomFilter,
    /// Real-time queries.
    Events,
    /// The same over a WebSocket.
    ChangesSocket,
    /// Durable consumers of it.
    Consumers(ConsumersRoute<'a>),
    /// Log-in with name and password.
    Login,
    /// The caller's user.
    Me,
    /// End of a session.
    Logout,
    /// What else there is to do with users and roles.
    User(UserRoute<'a>),
    /// Health in one word.
    Status,
    /// Version of the server.
    Version,
    /// The interface description.
    Spec,
    /// The page that shows it, or a file of that page (`None`: the address without the slash at its end).
    Docs(Option<&'a str>),
    /// Whether the process lives.
    Live,
    /// Whether the node can serve.
    Ready,
    /// Part of the contract, or of our own interface, that this version does not offer. The text names it.
    Later(&'static str),
    /// Nothing is at this address.
    Unknown,
}

impl Route<'_> {
    /// Stable name for metrics: no client can make new ones.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Connect => "connect",
            Self::Schema => "schema",
            Self::SchemaClass(_) => "schema_class",
            Self::Indexes(_) => "indexes",
            Self::Buckets => "buckets",
            Self::Bucket(_) => "bucket",
            Self::Ids(_) => "ids",
            Self::Query(_) => "query",
            Self::Count(_) => "count",
            Self::Explain(_) => "explain",
            Self::AclCheck => "acl_check",
            Self::Document(..) => "document",
            Self::Field(..) => "field",
            Self::Batch => "batch",
            Self::Changes => "changes",
            Self::BloomFilter => "bloomfilter",
            Self::Events => "events",
            Self::ChangesSocket => "changes_ws",
            Self::Consumers(route) => route.name(),
            Self::Login => "login",
            Self::Me => "me",
            Self::Logout => "logout",
            Self::User(route) => route.name(),
            Self::Status => "status",
            Self::Version => "version",
            Self::Spec => "spec",
            Self::Docs(_) => "docs",
            Self::Live => "live",
            Self::Ready => "ready",
            Self::Later(_) => "later",
            Self::Unknown => "unknown",
        }
    }

    /// The methods that have an answer here, as the value of `Allow`.
    pub(crate) fn methods(&self) -> &'static str {
        match self {
            Self::Root | Self::Buckets | Self::Ids(_) | Self::Me | Self::Logout | Self::Changes => {
                "GET, HEAD, OPTIONS"
            }
            Self::Events => "GET, OPTIONS",
            Self::Connect => "GET, HEAD, POST, OPTIONS",
            Self::ChangesSocket => "GET, OPTIONS",
            Self::BloomFilter
            | Self::Status
            | Self::Version
            | Self::Spec
            | Self::Docs(_)
            | Self::AclCheck
            | Self::Live
            | Self::Ready => "GET, HEAD, OPTIONS",
            Self::Schema => "GET, HEAD, POST, PUT, OPTIONS",
            Self::SchemaClass(_) => "GET, HEAD, POST, PUT, DELETE, OPTIONS",
            Self::Bucket(_) => "GET, HEAD, POST, PUT, DELETE, OPTIONS",
            Self::Indexes(_) => "GET, HEAD, POST, DELETE, OPTIONS",
            Self::Query(_) | Self::Count(_) | Self::Explain(_) => "GET, HEAD, POST, OPTIONS",
            Self::Document(..) => "GET, HEAD, POST, PUT, DELETE, OPTIONS",
            Self::Field(..) | Self::Batch | Self::Login => "POST, OPTIONS",
            Self::User(route) => route.methods(),
            Self::Consumers(route) => route.methods(),
            Self::Later(_) | Self::Unknown => "OPTIONS",
        }
    }
}

/// Reads a raw, still encoded path without its query.
pub(crate) fn parse(raw_path: &str) -> Result<Target<'_>, Malformed> {
    let path = raw_path.strip_prefix('/').unwrap_or(raw_path);
    if path.is_empty() {
        return Ok(Target {
            database: "",
            route: Route::Root,
        });
    }
    let (first, rest) = path.split_once('/').unwrap_or((path, ""));
    if is_route_word(first) {
        return Ok(Target {
            database: "",
            route: resource(path)?,
        });
    }
    let database = database_name(first).ok_or(Malformed::Database)?;
    Ok(Target {
        database,
        route: resource(rest)?,
    })
}

/// The database that `name` stands for, the default one being empty; `None` if no database can have that name.
pub(crate) fn database_name(name: &str) -> Option<&str> {
    if name == DEFAULT_DATABASE {
        return Some("");
    }
    let fits = !name.is_empty() && name.len() <= DATABASE_NAME_BYTES_MAX;
    (fits && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')).then_some(name)
}

/// Words that are resources, and therefore never databases.
pub(crate) fn is_route_word(word: &str) -> bool {
    matches!(
        word,
        "db" | "connect"
            | "schema"
            | "file"
            | "code"
            | "code-content"
            | "bloomfilter"
            | "index"
            | "query"
            | "config"
            | "status"
            | "version"
            | "spec"
            | "docs"
            | "batch"
            | "explain"
            | "acl"
            | "changes"
            | "consumers"
            | "events"
            | "events-url"
            | "slices"
            | "healthz"
            | "readyz"
            | "banned"
            | "asset"
            | "mail"
            | "pwa"
            | "transaction"
            | "speedkit"
            | "-"
    )
}

/// The resource at a path within a database.
fn resource(path: &str) -> Result<Route<'_>, Malformed> {
    let (word, rest) = match path.split_once('/') {
        Some((word, rest)) => (word, Some(rest)),
        None => (path, None),
    };
    Ok(match (word, rest) {
        ("db", None) => Route::Buckets,
        ("db", Some(rest)) => return database_resource(rest),
        ("", None) => Route::Root,
        ("connect", None) => Route::Connect,
        ("batch", None) => Route::Batch,
        ("changes", None) => Route::Changes,
        ("bloomfilter", None) => Route::BloomFilter,
        ("events", None) => Route::Events,
        ("changes", Some("ws")) => Route::ChangesSocket,
        ("consumers", rest) => return ConsumersRoute::of(rest),
        ("schema", None) => Route::Schema,
        ("schema", Some(bucket)) if !bucket.contains('/') => Route::SchemaClass(decode(bucket)?),
        ("explain", Some(bucket)) if !bucket.contains('/') => Route::Explain(decode(bucket)?),
        ("acl", Some("check")) => Route::AclCheck,
        ("index", Some(bucket)) if !bucket.contains('/') => Route::Indexes(decode(bucket)?),
        ("status", None) => Route::Status,
        ("version", None) => Route::Version,
        ("spec", None) => Route::Spec,
        ("docs", file) => Route::Docs(file),
        ("healthz", None) | ("-", Some("live" | "startup")) => Route::Live,
        ("readyz", None) | ("-", Some("ready")) => Route::Ready,
        _ => later(word).map_or(Route::Unknown, Route::Later),
    })
}

/// What a top-level word will mean in a later version.
fn later(word: &str) -> Option<&'static str> {
    Some(match word {
        "file" => "files",
        "code" | "code-content" => "backend code",
        "bloomfilter" => "parts of the Bloom filter",
        "index" => "indexes of all buckets at once",
        "query" => "prepared queries",
        "config" => "configuration over HTTP",
        "batch" => "parts of batches",
        "changes" => "parts of the change feed",
        "events" | "events-url" => "another address of real-time queries",
        "slices" => "sliced filters",
        "banned" => "bans",
        "asset" | "speedkit" | "pwa" => "asset caching",
        "mail" => "mail",
        "transaction" => "transactions",
        _ => return None,
    })
}

/// The resource at a path below `/db/`.
fn database_resource(path: &str) -> Result<Route<'_>, Malformed> {
    let mut parts = path.split('/');
    let bucket = decode(parts.next().unwrap_or_default())?;
    let Some(second) = parts.next() else {
        return Ok(Route::Bucket(bucket));
    };
    match (parts.next(), parts.next()) {
        (None, _) => bucket_resource(bucket, second),
        (Some(third), None) => match UserRoute::of_member(&bucket, second, third)? {
            Some(route) => Ok(route),
            None => Ok(Route::Field(bucket, decode(second)?, decode(third)?)),
        },
        _ => Ok(Route::Unknown),
    }
}

/// The resource at `/db/<bucket>/<word>`: a word that the contract reserves there, or a document.
fn bucket_resource<'a>(bucket: Text<'a>, word: &'a str) -> Result<Route<'a>, Malformed> {
    if bucket == "User"
        && let Some(route) = UserRoute::of_word(word)
    {
        return Ok(Route::User(route));
    }
    Ok(match (bucket.as_ref(), word) {
        (_, "ids") => Route::Ids(bucket),
        (_, "query") => Route::Query(bucket),
        (_, "count") => Route::Count(bucket),
        ("User", "login") => Route::Login,
        ("User", "me") => Route::Me,
        ("User", "logout") => Route::Logout,
        ("Device", "register" | "registered" | "push") => Route::Later("devices and push"),
        _ => Route::Document(bucket, decode(word)?),
    })
}

/// Decodes one segment that must not be empty.
pub(crate) fn decode(segment: &str) -> Result<Text<'_>, Malformed> {
    if segment.is_empty() {
        return Err(Malformed::Empty);
    }
    if !segment.contains('%') {
        return Ok(Cow::Borrowed(segment));
    }
    decode_segment(segment)
        .map(Cow::Owned)
        .ok_or(Malformed::Encoding)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn document<'a>(bucket: &'a str, key: &'a str) -> Route<'a> {
        Route::Document(bucket.into(), key.into())
    }

    #[test]
    fn paths_have_one_reading() {
        let table: Vec<(&str, &str, Route<'_>)> = vec![
            // The default database under its three names.
            ("/", "", Route::Root),
            ("", "", Route::Root),
            ("/v1", "", Route::Root),
            ("/v1/", "", Route::Root),
            ("/connect", "", Route::Connect),
            ("/v1/connect", "", Route::Connect),
            ("/db/Todo/1", "", document("Todo", "1")),
            ("/v1/db/Todo/1", "", document("Todo", "1")),
            // Other databases.
            ("/shop", "shop", Route::Root),
            ("/shop/db/Todo/1", "shop", document("Todo", "1")),
            ("/shop/connect", "shop", Route::Connect),
            ("/Shop_2/schema", "Shop_2", Route::Schema),
            // A route word is a word only in its place.
            ("/shop/db/db/schema", "shop", document("db", "schema")),
            ("/db/connect", "", Route::Bucket("connect".into())),
            // Documents: split first, decode second.
            ("/db/Todo/a%2Fb", "", document("Todo", "a/b")),
            ("/db/Todo/%C3%A4%20%25", "", document("Todo", "ä %")),
            ("/db/logs.AppLog/x", "", document("logs.AppLog", "x")),
            ("/db/To%64o/x", "", document("Todo", "x")),
            ("/db/Todo/i%64s", "", document("Todo", "ids")),
            ("/db/Todo/login", "", document("Todo", "login")),
            ("/db/Todo/..", "", document("Todo", "..")),
            ("/db", "", Route::Buckets),
            ("/db/Todo", "", Route::Bucket("Todo".into())),
            ("/db/Todo/ids", "", Route::Ids("Todo".into())),
            ("/db/Todo/query", "", Route::Query("Todo".into())),
            ("/v1/db/Todo/count", "", Route::Count("Todo".into())),
            // Schema.
            ("/schema", "", Route::Schema),
            ("/v1/schema/Todo", "", Route::SchemaClass("Todo".into())),
            (
                "/schema/logs.AppLog",
                "",
                Route::SchemaClass("logs.AppLog".into()),
            ),
            ("/schema/a/b", "", Route::Unknown),
            // Sessions.
            ("/v1/db/User/login", "", Route::Login),
            ("/shop/db/User/me", "shop", Route::Me),
            ("/db/User/logout", "", Route::Logout),
            ("/db/User/1", "", document("User", "1")),
            // Probes.
            ("/status", "", Route::Status),
            ("/v1/version", "", Route::Version),
            ("/spec", "", Route::Spec),
            ("/shop/spec", "shop", Route::Spec),
            ("/docs", "", Route::Docs(None)),
            ("/v1/docs/", "", Route::Docs(Some(""))),
            ("/docs/index.css", "", Route::Docs(Some("index.css"))),
            ("/healthz", "", Route::Live),
            ("/-/live", "", Route::Live),
            ("/readyz", "", Route::Ready),
            ("/v1/-/ready", "", Route::Ready),
            ("/-/startup", "", Route::Live),
            ("/-", "", Route::Unknown),
            ("/-/other", "", Route::Unknown),
            // Named by the contract, not offered.
            (
                "/db/Todo/a%2Fb/list.0",
                "",
                Route::Field("Todo".into(), "a/b".into(), "list.0".into()),
            ),
            ("/batch", "", Route::Batch),
            ("/changes", "", Route::Changes),
            ("/shop/changes", "shop", Route::Changes),
            ("/v1/events", "", Route::Events),
            ("/shop/events", "shop", Route::Events),
            (
                "/events-url",
                "",
                Route::Later("another address of real-time queries"),
            ),
            ("/changes/ws", "", Route::ChangesSocket),
            ("/shop/changes/ws", "shop", Route::ChangesSocket),
            ("/shop/batch", "shop", Route::Batch),
            ("/batch/1", "", Route::Later("parts of batches")),
            ("/db/User/register", "", Route::User(UserRoute::Register)),
            ("/db/User/mfa", "", Route::User(UserRoute::SecondFactor)),
            (
                "/v1/db/User/mfa/init",
                "",
                Route::User(UserRoute::SecondFactorInit),
            ),
            ("/db/User/mfa/other", "", Route::Unknown),
            (
                "/db/User/3%2F0/token",
                "",
                Route::User(UserRoute::ApiToken("3/0".into())),
            ),
            (
                "/db/User/OAuth/google",
                "",
                Route::User(UserRoute::Oauth("google".into())),
            ),
            (
                "/db/Role/1/assume",
                "",
                Route::User(UserRoute::Assume("1".into())),
            ),
            (
                "/db/Device/registered",
                "",
                Route::Later("devices and push"),
            ),
            ("/file/www/a/b.txt", "", Route::Later("files")),
            ("/bloomfilter", "", Route::BloomFilter),
            (
                "/bloomfilter/expirations",
                "",
                Route::Later("parts of the Bloom filter"),
            ),
            ("/code", "", Route::Later("backend code")),
            ("/shop/index/Todo", "shop", Route::Indexes("Todo".into())),
            ("/index", "", Route::Later("indexes of all buckets at once")),
            ("/transaction", "", Route::Later("transactions")),
            // Nothing there.
            ("/v1/nothing", "", Route::Unknown),
            ("/connect/", "", Route::Unknown),
            ("/db/a/b/c/d", "", Route::Unknown),
        ];
        for (path, database, route) in table {
            assert_eq!(parse(path), Ok(Target { database, route }), "{path}");
        }
    }

    #[test]
    fn paths_without_a_reading_name_the_cause() {
        for (path, why) in [
            ("/fav.ico", Malformed::Database),
            ("//connect", Malformed::Database),
            ("/%64b/Todo/1", Malformed::Database),
            ("/a-b/db/Todo/1", Malformed::Database),
            (&*format!("/{}/db", "x".repeat(64)), Malformed::Database),
            ("/db/Todo/%", Malformed::Encoding),
            ("/db/Todo/%zz", Malformed::Encoding),
            ("/db/Todo/%ff", Malformed::Encoding),
            ("/schema/%ff", Malformed::Encoding),
            ("/index/%ff", Malformed::Encoding),
            ("/index/", Malformed::Empty),
            ("/db/", Malformed::Empty),
            ("/db//1", Malformed::Empty),
            ("/db/Todo/", Malformed::Empty),
            ("/db/Todo/1/", Malformed::Empty),
            ("/schema/", Malformed::Empty),
        ] {
            assert_eq!(parse(path), Err(why), "{path}");
        }
        assert!(parse(&format!("/{}/db", "x".repeat(63))).is_ok());
    }

    proptest! {
        #[test]
        fn every_key_is_addressable(key in "\\PC{1,40}") {
            prop_assume!(!["ids", "query", "count"].contains(&key.as_str()));
            let path = document::id::object_id("Todo", &key);
            prop_assert_eq!(parse(&path), Ok(Target { database: "", route: document("Todo", &key) }));
        }

        #[test]
        fn parsing_never_panics(path in "[/%a-z0-9.]{0,30}|\\PC{0,30}") {
            let _ = parse(&path);
        }
    }
}
