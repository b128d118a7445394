//! Every call of the client port over HTTP: one row for each, from which its part of the description is made.

use utoipa::openapi::path::{OperationBuilder, ParameterBuilder, ParameterIn};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::schema::Type;
use utoipa::openapi::security::SecurityRequirement;
use utoipa::openapi::{
    ContentBuilder, HttpMethod, ObjectBuilder, Paths, Required, ResponseBuilder, Schema,
};

use super::TOKEN;

/// A call.
pub(crate) struct Operation {
    pub(crate) method: HttpMethod,
    /// Below the database; parameters in braces.
    pub(crate) path: &'static str,
    /// What it does, in one line.
    summary: &'static str,
    /// Names and meanings of the parameters behind `?`.
    query: &'static [(&'static str, &'static str)],
    /// What the body is; empty for none.
    body: &'static str,
    /// Statuses of success, with what they bring.
    answers: &'static [(&'static str, &'static str)],
}

/// The first part of a group names it in the page.
fn group(path: &str) -> &'static str {
    match path.split('/').nth(1) {
        Some("db") if path.starts_with("/db/User/") && !path.contains('{') => "sessions",
        Some("db") if path.contains("{key}") => "documents",
        Some("db") if path.ends_with("/query") || path.ends_with("/count") => "queries",
        Some("batch") => "documents",
        Some("db") => "buckets",
        Some("schema") => "schema",
        Some("index") => "indexes",
        Some("connect") => "sessions",
        Some("bloomfilter") => "caching",
        _ => "node",
    }
}

const WINDOW: &[(&str, &str)] = &[
    ("start", "how many to skip; 0 by default"),
    ("count", "how many to give; -1, the default, for all"),
];
const PART: &[(&str, &str)] = &[
    (
        "count",
        "about how many to delete; -1, the default, for all",
    ),
    (
        "after",
        "larder-continuation of the answer before, to go on behind it",
    ),
];
const CHANGES: &[(&str, &str)] = &[
    ("bucket", "only this bucket"),
    ("filter", "only documents that match, with bucket: JSON"),
    (
        "from",
        "now, the default; oldest; snapshot; or the id of an earlier event, to go on behind it",
    ),
    ("order", "shard, the default, or time"),
    (
        "wait",
        "seconds: answer with the first changes there are, or none",
    ),
    (
        "consumer",
        "goes on where this consumer is, which says bucket and filter; for admins",
    ),
    ("id", "of a document: its versions that are kept"),
    ("at", "with id: the version it had at the id of an event"),
];
const EVENTS: &[(&str, &str)] = &[
    ("class", "the bucket"),
    ("query", "the filter as JSON"),
    ("sort", "the order as JSON"),
    ("offset", "documents to pass over"),
    ("limit", "the most documents"),
    ("initial", "false: only what changes"),
    ("matchTypes", "only these, separated by commas"),
    ("operations", "only what came of these, separated by commas"),
];
const CHANGES_WS: &[(&str, &str)] = &[
    ("bucket", "only this bucket"),
    ("filter", "only documents that match, with bucket: JSON"),
    (
        "from",
        "now, the default; oldest; snapshot; or a token, to go on behind its message",
    ),
    ("order", "shard, the default, or time"),
];
const FILTER: &[(&str, &str)] = &[
    ("q", "the filter: JSON, as MongoDB has it; {} for all"),
    ("sort", "field to 1 or -1, the first one counting most"),
    ("start", "how many to skip; 0 by default"),
    (
        "count",
        "how many to give; -1, the default, for as many as the server gives at once",
    ),
];
const DOCUMENT: (&str, &str) = ("200", "the stored document, with its version as ETag");

/// All of them, in the order of the page.
pub(crate) const OPERATIONS: &[Operation] = &[
    Operation {
        method: HttpMethod::Get,
        path: "/db/{bucket}/{key}",
        summary: "Reads a document",
        query: &[],
        body: "",
        answers: &[
            DOCUMENT,
            ("304", "the version in if-none-match is the stored one"),
        ],
    },
    Operation {
        method: HttpMethod::Put,
        path: "/db/{bucket}/{key}",
        summary: "Replaces a document; without a condition also inserts it",
        query: &[],
        body: "the whole document",
        answers: &[DOCUMENT],
    },
    Operation {
        method: HttpMethod::Delete,
        path: "/db/{bucket}/{key}",
        summary: "Deletes a document",
        query: &[],
        body: "",
        answers: &[("204", "it is gone")],
    },
    Operation {
        method: HttpMethod::Post,
        path: "/db/{bucket}",
        summary: "Inserts a document; its id is in the body, or made here",
        query: &[],
        body: "the document",
        answers: &[("201", "the stored document, with its version as ETag")],
    },
    Operation {
        method: HttpMethod::Post,
        path: "/db/{bucket}/{key}",
        summary: "Changes parts of a document",
        query: &[],
        body: "operation to path to argument: {\"$inc\": {\"n\": 1}}",
        answers: &[DOCUMENT],
    },
    Operation {
        method: HttpMethod::Post,
        path: "/db/{bucket}/{key}/{field}",
        summary: "Changes one field of a document",
        query: &[],
        body: "operation to argument: {\"$inc\": 1}",
        answers: &[DOCUMENT],
    },
    Operation {
        method: HttpMethod::Post,
        path: "/batch",
        summary: "Several writes at once: all or nothing within one shard",
        query: &[],
        body: "{\"atomic\": true, \"writes\": […]}",
        answers: &[("200", "one result for each write")],
    },
    Operation {
        method: HttpMethod::Get,
        path: "/db/{bucket}/query",
        summary: "Finds documents that match a filter",
        query: FILTER,
        body: "",
        answers: &[("200", "an array of documents in order")],
    },
    Operation {
        method: HttpMethod::Post,
        path: "/db/{bucket}/query",
        summary: "The same, with the filter as the body",
        query: FILTER,
        body: "the filter",
        answers: &[("200", "an array of documents in order")],
    },
    Operation {
        method: HttpMethod::Get,
        path: "/changes",
        summary: "Tells what changes, as server-sent events; with wait as one answer, with id the versions of a document",
        query: CHANGES,
        body: "",
        answers: &[("200", "changes, each with an id to go on behind it")],
    },
    Operation {
        method: HttpMethod::Get,
        path: "/events",
        summary: "Real-time queries: one as server-sent events, or any number over a WebSocket",
        query: EVENTS,
        body: "",
        answers: &[
            ("200", "events: result, match and error"),
            ("101", "messages as docs/realtime.md has them"),
        ],
    },
    Operation {
        method: HttpMethod::Get,
        path: "/changes/ws",
        summary: "The same over a WebSocket: without a query the client's first message says what is wanted",
        query: CHANGES_WS,
        body: "",
        answers: &[(
            "101",
            "messages: change, progress, resync, live, error; each but the last with a token to go on behind it",
        )],
    },
    Operation {
        method: HttpMethod::Get,
        path: "/consumers",
        summary: "Lists the durable consumers of changes, for admins",
        query: &[],
        body: "",
        answers: &[("200", "each with how far it is")],
    },
    Operation {
        method: HttpMethod::Get,
        path: "/consumers/{key}",
        summary: "Shows a consumer",
        query: &[],
        body: "",
        answers: &[("200", "how far it is, and what keeps it")],
    },
    Operation {
        method: HttpMethod::Post,
        path: "/consumers/{key}",
        summary: "Makes a consumer; with a target, changes are sent there",
        query: &[],
        body: "{\"bucket\": \"Order\", \"filter\": {…}, \"from\": \"now\", \"target\": \"https://…\", \"secret\": \"…\"}, all of it optional",
        answers: &[("200", "the consumer; with secret, if one was made")],
    },
    Operation {
        method: HttpMethod::Delete,
        path: "/consumers/{key}",
        summary: "Deletes a consumer with its position",
        query: &[],
        body: "",
        answers: &[("204", "it is gone")],
    },
    Operation {
        method: HttpMethod::Post,
        path: "/consumers/{key}/ack",
        summary: "Says that everything up to a token was taken over",
        query: &[],
        body: "{\"token\": \"…\"}",
        answers: &[("204", "noted")],
    },
    Operation {
        method: HttpMethod::Post,
        path: "/consumers/{key}/pause",
        summary: "Sends nothing more to a consumer's target",
        query: &[],
        body: "",
        answers: &[("204", "paused")],
    },
    Operation {
        method: HttpMethod::Post,
        path: "/consumers/{key}/resume",
        summary: "Sends again, and at once",
        query: &[],
        body: "",
        answers: &[("204", "resumed")],
    },
    Operation {
        method: HttpMethod::Get,
        path: "/explain/{bucket}",
        summary: "Tells admins how each shard finds its part of a query",
        query: FILTER,
        body: "",
        answers: &[(
            "200",
            "for each shard: plan, indexes, what was looked at, time",
        )],
    },
    Operation {
        method: HttpMethod::Post,
        path: "/explain/{bucket}",
        summary: "The same, with the filter as the body",
        query: FILTER,
        body: "the filter",
        answers: &[(
            "200",
            "for each shard: plan, indexes, what was looked at, time",
        )],
    },
    Operation {
        method: HttpMethod::Get,
        path: "/acl/check",
        summary: "Tells admins what a user may do with a bucket or a document, and why",
        query: &[
            (
                "as",
                "id or key of a user; without it a caller who is not logged in",
            ),
            (
                "id",
                "the document, /db/<bucket>/<key>, or /db/<bucket> for its class alone",
            ),
            (
                "operation",
                "load (read), query, insert, update (write), delete or upsert",
            ),
        ],
        body: "",
        answers: &[("200", "granted or not, and each rule that was asked")],
    },
    Operation {
        method: HttpMethod::Get,
        path: "/db/{bucket}/count",
        summary: "Counts the documents that match a filter",
        query: FILTER,
        body: "",
        answers: &[("200", "their number")],
    },
    Operation {
        method: HttpMethod::Post,
        path: "/db/{bucket}/count",
        summary: "The same, with the filter as the body",
        query: FILTER,
        body: "the filter",
        answers: &[("200", "their number")],
    },
    Operation {
        method: HttpMethod::Get,
        path: "/db",
        summary: "Lists the buckets",
        query: &[],
        body: "",
        answers: &[("200", "an array of /db/<bucket>")],
    },
    Operation {
        method: HttpMethod::Get,
        path: "/db/{bucket}/ids",
        summary: "Lists the ids of the documents that the caller may read",
        query: WINDOW,
        body: "",
        answers: &[("200", "an array of ids")],
    },
    Operation {
        method: HttpMethod::Get,
        path: "/db/{bucket}",
        summary: "Exports a bucket; for admins",
        query: &[],
        body: "",
        answers: &[("200", "an array of documents with all their members")],
    },
    Operation {
        method: HttpMethod::Put,
        path: "/db/{bucket}",
        summary: "Imports documents; existing ids are replaced, others stay; for admins",
        query: &[],
        body: "an array of documents as the export gives them, or one document a line",
        answers: &[("200", "how many were imported, and which were not and why")],
    },
    Operation {
        method: HttpMethod::Delete,
        path: "/db/{bucket}",
        summary: "Deletes all documents of a bucket, or with count about as many, and after= goes on; for admins",
        query: PART,
        body: "",
        answers: &[("200", "how many were deleted")],
    },
    Operation {
        method: HttpMethod::Get,
        path: "/schema",
        summary: "Gives all class descriptors",
        query: &[],
        body: "",
        answers: &[("200", "an array of descriptors")],
    },
    Operation {
        method: HttpMethod::Post,
        path: "/schema",
        summary: "Adds classes and fields, or changes class rules; takes nothing away",
        query: &[],
        body: "an array of descriptors and operations",
        answers: &[("200", "the whole schema, as it is now")],
    },
    Operation {
        method: HttpMethod::Put,
        path: "/schema",
        summary: "Replaces the whole schema; documents of classes that are not in it are lost",
        query: &[],
        body: "an array of descriptors",
        answers: &[("200", "the whole schema, as it is now")],
    },
    Operation {
        method: HttpMethod::Get,
        path: "/schema/{bucket}",
        summary: "Gives one class descriptor",
        query: &[],
        body: "",
        answers: &[("200", "the descriptor")],
    },
    Operation {
        method: HttpMethod::Post,
        path: "/schema/{bucket}",
        summary: "Adds fields to a class",
        query: &[],
        body: "the descriptor",
        answers: &[("200", "the descriptor, as it is now")],
    },
    Operation {
        method: HttpMethod::Put,
        path: "/schema/{bucket}",
        summary: "Replaces a class",
        query: &[],
        body: "the descriptor",
        answers: &[("200", "the descriptor, as it is now")],
    },
    Operation {
        method: HttpMethod::Delete,
        path: "/schema/{bucket}",
        summary: "Drops a class and its documents",
        query: &[],
        body: "",
        answers: &[("204", "it is gone")],
    },
    Operation {
        method: HttpMethod::Get,
        path: "/index/{bucket}",
        summary: "Gives the indexes of a bucket",
        query: &[],
        body: "",
        answers: &[(
            "200",
            "an array of definitions, each with `id`, `state` (building, ready or failed), `progress` (0 to 1) and, for admins, `reason`",
        )],
    },
    Operation {
        method: HttpMethod::Post,
        path: "/index/{bucket}",
        summary: "Makes an index, or drops the one with this definition; for admins",
        query: &[],
        body: "{\"unique\": false, \"keys\": [{\"name\": \"asc\"}, {\"place\": \"geo\"}], \"drop\": false}",
        answers: &[(
            "202",
            "every shard keeps it up, or no more; filling it goes on in the background",
        )],
    },
    Operation {
        method: HttpMethod::Delete,
        path: "/index/{bucket}",
        summary: "Drops all indexes of a bucket; for admins",
        query: &[],
        body: "",
        answers: &[("202", "no shard keeps them up any more")],
    },
    Operation {
        method: HttpMethod::Get,
        path: "/connect",
        summary: "Gives a starting client the schema and its session",
        query: &[],
        body: "",
        answers: &[(
            "200",
            "schema, and with a valid token the user and the token",
        )],
    },
    Operation {
        method: HttpMethod::Get,
        path: "/bloomfilter",
        summary: "Which documents web caches may hold old copies of, as a Bloom filter",
        query: &[],
        body: "",
        answers: &[(
            "200",
            "the filter: m bits, h hashes, and the bits b in base64",
        )],
    },
    Operation {
        method: HttpMethod::Post,
        path: "/connect",
        summary: "The page through which browsers of other origins call",
        query: &[],
        body: "",
        answers: &[("200", "an HTML page")],
    },
    Operation {
        method: HttpMethod::Post,
        path: "/db/User/login",
        summary: "Logs in",
        query: &[],
        body: "username and password",
        answers: &[(
            "200",
            "the user; the token is in baqend-authorization-token",
        )],
    },
    Operation {
        method: HttpMethod::Get,
        path: "/db/User/me",
        summary: "Gives the caller's user",
        query: &[],
        body: "",
        answers: &[("200", "the user")],
    },
    Operation {
        method: HttpMethod::Get,
        path: "/db/User/logout",
        summary: "Ends the session",
        query: &[("everywhere", "true: ends all sessions of the user")],
        body: "",
        answers: &[("204", "done")],
    },
    Operation {
        method: HttpMethod::Post,
        path: "/db/User/register",
        summary: "Registers a user",
        query: &[],
        body: "user (the object, without id), password, and login: whether to log in too",
        answers: &[
            (
                "200",
                "the user; with login the token is in baqend-authorization-token",
            ),
            ("204", "the user has a mail with a link to follow first"),
        ],
    },
    Operation {
        method: HttpMethod::Get,
        path: "/db/User/validate",
        summary: "Says whether the token is good",
        query: &[],
        body: "",
        answers: &[("200", "the id of its user")],
    },
    Operation {
        method: HttpMethod::Post,
        path: "/db/User/password",
        summary: "Changes a password, and ends the sessions of before",
        query: &[],
        body: "username, password and newPassword; or token, of a mail, and newPassword",
        answers: &[(
            "200",
            "the user; the token is in baqend-authorization-token",
        )],
    },
    Operation {
        method: HttpMethod::Delete,
        path: "/db/User/password",
        summary: "Takes the caller's password away",
        query: &[],
        body: "",
        answers: &[("204", "done; the token is in baqend-authorization-token")],
    },
    Operation {
        method: HttpMethod::Post,
        path: "/db/User/reset",
        summary: "Sends a mail with a link that resets the password",
        query: &[],
        body: "username",
        answers: &[("200", "taken, whether there is such a user or not")],
    },
    Operation {
        method: HttpMethod::Get,
        path: "/db/User/verify",
        summary: "Confirms a mail address",
        query: &[("token", "as the mail's link has it")],
        body: "",
        answers: &[("204", "done"), ("302", "done, and here is where to go on")],
    },
    Operation {
        method: HttpMethod::Post,
        path: "/db/User/changeUsername",
        summary: "Sends a mail with a link that changes the name",
        query: &[],
        body: "username, newUsername and password",
        answers: &[("204", "sent")],
    },
    Operation {
        method: HttpMethod::Get,
        path: "/db/User/verifyUsername",
        summary: "Changes the name",
        query: &[("token", "as the mail's link has it")],
        body: "",
        answers: &[("204", "done")],
    },
    Operation {
        method: HttpMethod::Get,
        path: "/db/User/mfa/status",
        summary: "Says whether the second factor is on",
        query: &[],
        body: "",
        answers: &[("200", "ENABLED, PENDING or DISABLED, as a JSON text")],
    },
    Operation {
        method: HttpMethod::Get,
        path: "/db/User/mfa/init",
        summary: "Makes a secret for the second factor",
        query: &[],
        body: "",
        answers: &[("200", "keyUri, and qrCode with its picture")],
    },
    Operation {
        method: HttpMethod::Post,
        path: "/db/User/mfa/init",
        summary: "Switches the second factor on",
        query: &[],
        body: "code: the first one",
        answers: &[("200", "done")],
    },
    Operation {
        method: HttpMethod::Post,
        path: "/db/User/mfa/token",
        summary: "Finishes a log-in that waits for a code",
        query: &[],
        body: "authToken, as the refusal of the log-in has it, and code",
        answers: &[(
            "200",
            "the user; the token is in baqend-authorization-token",
        )],
    },
    Operation {
        method: HttpMethod::Delete,
        path: "/db/User/mfa",
        summary: "Switches the second factor off",
        query: &[],
        body: "",
        answers: &[("204", "done")],
    },
    Operation {
        method: HttpMethod::Post,
        path: "/db/User/{key}/token",
        summary: "Makes an API token of a user, for admins",
        query: &[],
        body: "",
        answers: &[("200", "token")],
    },
    Operation {
        method: HttpMethod::Delete,
        path: "/db/User/{key}/token",
        summary: "Makes all tokens of a user worthless",
        query: &[],
        body: "",
        answers: &[("204", "done")],
    },
    Operation {
        method: HttpMethod::Get,
        path: "/db/User/OAuth/{key}",
        summary: "Logs in with a provider: begins, ends a flow, or asks for a device code",
        query: &[
            (
                "redirect",
                "where to go with the token, of a registered origin",
            ),
            ("loginOption", "comes back with the redirect"),
            ("state", "of the flow; or a device code"),
            ("code", "as the provider gave it"),
        ],
        body: "",
        answers: &[
            (
                "200",
                "a page that hands the answer to the app, or the user of a device code",
            ),
            ("302", "to the provider, or to the app"),
        ],
    },
    Operation {
        method: HttpMethod::Post,
        path: "/db/Role/{key}/assume",
        summary: "Gives a session that acts in this role alone",
        query: &[],
        body: "",
        answers: &[(
            "200",
            "the user; the token is in baqend-authorization-token",
        )],
    },
    Operation {
        method: HttpMethod::Get,
        path: "/spec",
        summary: "Gives this description",
        query: &[],
        body: "",
        answers: &[("200", "an OpenAPI 3.1 document")],
    },
    Operation {
        method: HttpMethod::Get,
        path: "/docs/",
        summary: "The page that shows this description",
        query: &[],
        body: "",
        answers: &[("200", "an HTML page")],
    },
    Operation {
        method: HttpMethod::Get,
        path: "/status",
        summary: "Says whether this node can serve",
        query: &[],
        body: "",
        answers: &[("200", "it can")],
    },
    Operation {
        method: HttpMethod::Get,
        path: "/version",
        summary: "Gives the version of the server",
        query: &[],
        body: "",
        answers: &[("200", "the version")],
    },
];

/// The description of all calls.
pub(super) fn paths() -> Paths {
    let mut paths = Paths::new();
    for operation in OPERATIONS {
        let method = operation.method.clone();
        paths.add_path_operation(operation.path, vec![method], operation.describe());
    }
    paths
}

impl Operation {
    fn describe(&self) -> utoipa::openapi::path::Operation {
        let mut built = OperationBuilder::new()
            .tag(group(self.path))
            .summary(Some(self.summary))
            .security(SecurityRequirement::default())
            .security(SecurityRequirement::new(TOKEN, Vec::<String>::new()));
        for name in path_parameters(self.path) {
            let parameter = ParameterBuilder::new()
                .name(name)
                .parameter_in(ParameterIn::Path)
                .required(Required::True)
                .schema(Some(text()));
            built = built.parameter(parameter);
        }
        for (name, meaning) in self.query {
            let parameter = ParameterBuilder::new()
                .name(*name)
                .parameter_in(ParameterIn::Query)
                .required(Required::False)
                .description(Some(*meaning))
                .schema(Some(text()));
            built = built.parameter(parameter);
        }
        if !self.body.is_empty() {
            let body = RequestBodyBuilder::new()
                .description(Some(self.body))
                .content("application/json", ContentBuilder::new().build())
                .required(Some(Required::True));
            built = built.request_body(Some(body.build()));
        }
        for (status, meaning) in self.answers {
            built = built.response(*status, ResponseBuilder::new().description(*meaning));
        }
        let error = ResponseBuilder::new()
            .description("an error: `code`, `message`, `effect` and `requestId`");
        built.response("default", error).build()
    }
}

/// The names in braces.
fn path_parameters(path: &str) -> impl Iterator<Item = &str> {
    path.split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
}

fn text() -> Schema {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .build()
        .into()
}
