//! Real-time queries: what a reader has who takes over what it is told is what the query gives.

use std::time::Duration;

use futures::FutureExt as _;
use proptest::prelude::*;
use proptest::sample::select;
use proto::{ErrorCode, NodeId};
use serde_json::{Value, json as value};

use super::{body, json, put};
use crate::testing::{TestCluster, anonymous, soon};
use crate::{
    Condition, Context, Error, Limits, LiveFrame, LiveMatch, LiveOperation, LiveQuery, LiveRequest,
    MatchType, QueryRequest, Service,
};

/// No passing test waits so long for what must come.
const DEADLINE: Duration = Duration::from_secs(20);
/// Nothing that changes a result that is right is likely to come later than this.
const QUIET: Duration = Duration::from_millis(60);

fn ask(filter: &str, sort: &str, offset: usize, limit: Option<usize>) -> LiveRequest {
    LiveRequest {
        bucket: "Demo".to_owned(),
        filter: body(filter),
        sort: body(sort),
        offset,
        limit,
        initial: true,
        ..LiveRequest::default()
    }
}

async fn open(service: &Service, ctx: &Context, request: &LiveRequest) -> LiveQuery {
    let opened = service.subscribe(ctx, request.clone()).await;
    opened.expect("a subscription")
}

/// What the SDK's result stream does, and nothing else.
#[derive(Default)]
struct Reader {
    is_ordered: bool,
    list: Vec<Value>,
}

impl Reader {
    fn take(&mut self, frame: LiveFrame) {
        let found = match frame {
            LiveFrame::Result { documents, .. } => {
                self.list = documents.iter().map(|one| json(&one.body)).collect();
                return;
            }
            LiveFrame::Match(found) => found,
        };
        assert_eq!(found.index.is_some(), self.is_ordered);
        let id = document::id::object_id(&found.bucket, &found.key);
        let at = self.list.iter().position(|one| one["id"] == id);
        match (found.match_type, at) {
            (MatchType::Add, None) => {
                let index = match found.index {
                    Some(index) => usize::try_from(index).expect("an index"),
                    None => self.list.len(),
                };
                self.list.insert(index, json(&found.body));
            }
            (MatchType::Change, Some(at)) => self.list[at] = json(&found.body),
            (MatchType::ChangeIndex, Some(at)) => {
                self.list.remove(at);
                let index = usize::try_from(found.index.expect("an index")).expect("an index");
                self.list.insert(index, json(&found.body));
            }
            (MatchType::Remove, Some(at)) => {
                self.list.remove(at);
            }
            (step, at) => panic!("{step:?} of {id}, which is at {at:?}"),
        }
    }

    /// Reads until it has what the query gives, and what comes after it changes nothing.
    async fn reach(
        &mut self,
        live: &mut LiveQuery,
        service: &Service,
        ctx: &Context,
        request: &LiveRequest,
    ) {
        let ctx = Context {
            deadline: soon(),
            ..ctx.clone()
        };
        let mut wanted = query(service, &ctx, request).await;
        if !self.is_ordered {
            wanted.sort_by_key(|one| one["id"].to_string());
        }
        loop {
            let has_it = self.sorted() == wanted;
            let patience = if has_it { QUIET } else { DEADLINE };
            match tokio::time::timeout(patience, live.next()).await {
                Ok(frame) => self.take(frame.expect("a frame")),
                Err(_) if has_it => return,
                Err(_) => panic!("{:#?} stays, {wanted:#?} is stored", self.list),
            }
        }
    }

    fn sorted(&self) -> Vec<Value> {
        let mut list = self.list.clone();
        if !self.is_ordered {
            list.sort_by_key(|one| one["id"].to_string());
        }
        list
    }
}

async fn query(service: &Service, ctx: &Context, request: &LiveRequest) -> Vec<Value> {
    let request = QueryRequest {
        filter: request.filter.clone(),
        sort: request.sort.clone(),
        start: request.offset as u64,
        count: request.limit.map(|limit| limit as u64),
        ..QueryRequest::default()
    };
    let page = service.query(ctx, "Demo", request).await.expect("a result");
    page.documents.iter().map(|one| json(&one.body)).collect()
}

/// The next change; the step and what it is about.
async fn step(live: &mut LiveQuery) -> (&'static str, &'static str, String, Option<i64>) {
    let LiveMatch {
        match_type,
        operation,
        key,
        index,
        ..
    } = next(live).await;
    (match_type.name(), operation.name(), key, index)
}

async fn next(live: &mut LiveQuery) -> LiveMatch {
    let next = tokio::time::timeout(DEADLINE, live.next()).await;
    match next.expect("a frame in time").expect("a frame") {
        LiveFrame::Match(found) => found,
        LiveFrame::Result { .. } => panic!("another result"),
    }
}

/// The result that a subscription begins with.
async fn result(live: &mut LiveQuery) -> Vec<String> {
    match live.next().await.expect("a frame") {
        LiveFrame::Result { documents, .. } => documents.into_iter().map(|one| one.key).collect(),
        LiveFrame::Match(found) => panic!("{found:?} before the result"),
    }
}

async fn write(cluster: &TestCluster, key: &str, text: &str) {
    let written = put(cluster, &anonymous(), key, text, Condition::None).await;
    written.expect("put");
}

async fn delete(cluster: &TestCluster, ctx: &Context, key: &str) {
    let service = &cluster.service;
    service
        .delete(ctx, "Demo", key, Condition::None)
        .await
        .expect("deleted");
}

#[derive(Clone, Debug)]
struct History {
    requests: Vec<LiveRequest>,
    before: Vec<Write>,
    writes: Vec<Write>,
    changes_max: usize,
}

/// A key, and what is stored there: a number, a word and who may read it; `None`: nothing.
type Write = (u8, Option<(i64, &'static str, bool)>);

fn history() -> impl Strategy<Value = History> {
    let filter = select(vec![
        "{}",
        r#"{"n":{"$gte":3,"$lt":8}}"#,
        r#"{"word":"a"}"#,
        r#"{"$or":[{"word":"b"},{"n":{"$lte":2}}]}"#,
        r#"{"n":{"$ne":4}}"#,
        r#"{"word":{"$regex":"^a"}}"#,
    ]);
    let sort = select(vec![
        "",
        r#"{"n":1}"#,
        r#"{"n":-1}"#,
        r#"{"word":1,"n":-1}"#,
    ]);
    let limit = prop_oneof![1 => Just(None), 3 => (1usize..5).prop_map(Some)];
    let request = (filter, sort, 0usize..3, limit)
        .prop_map(|(filter, sort, offset, limit)| ask(filter, sort, offset, limit));
    let document = (0i64..10, select(vec!["a", "ab", "b"]), any::<bool>());
    let write = || (0u8..25, proptest::option::weighted(0.75, document.clone()));
    (
        proptest::collection::vec(request, 3),
        proptest::collection::vec(write(), 0..40),
        proptest::collection::vec(write(), 1..40),
        prop_oneof![1 => Just(2usize), 3 => Just(1_000)],
    )
        .prop_map(|(requests, before, writes, changes_max)| History {
            requests,
            before,
            writes,
            changes_max,
        })
}

async fn store(cluster: &TestCluster, root: &Context, (key, document): Write) {
    let key = format!("k{key}");
    match document {
        None => delete(cluster, root, &key).await,
        Some((n, word, is_secret)) => {
            let acl = match is_secret {
                true => value!({ "read": { "/db/User/1": "allow" } }),
                false => Value::Null,
            };
            let text = value!({ "n": n, "word": word, "acl": acl }).to_string();
            put(cluster, root, &key, &text, Condition::None)
                .await
                .expect("put");
        }
    }
}

/// Half of the readers read while it is written, the others afterwards.
async fn check(history: History) {
    let limits = Limits {
        live_changes_max: history.changes_max,
        ..Limits::default()
    };
    let cluster = TestCluster::with_nodes(2, limits).await;
    // One of the two has no replicas.
    cluster.world.bystanders.lock().insert(NodeId(2));
    let (root, anyone) = (cluster.root().await, anonymous());
    for write in history.before {
        store(&cluster, &root, write).await;
    }
    let mut readers = Vec::new();
    for (at, request) in history.requests.into_iter().enumerate() {
        let ctx = if at == 0 { &root } else { &anyone };
        let service = cluster.node(1 + at % 2).clone();
        let live = open(&service, ctx, &request).await;
        let reader = Reader {
            is_ordered: !request.sort.is_empty(),
            ..Reader::default()
        };
        readers.push((reader, live, service, ctx, request));
    }
    for write in history.writes {
        store(&cluster, &root, write).await;
        for (reader, live, ..) in &mut readers[..2] {
            while let Some(frame) = live.next().now_or_never() {
                reader.take(frame.expect("a frame"));
            }
            tokio::task::yield_now().await;
        }
    }
    for (reader, live, service, ctx, request) in &mut readers {
        reader.reach(live, service, ctx, request).await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 60, ..ProptestConfig::default() })]

    #[test]
    fn results_follow_random_histories(history in history()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.expect("a runtime").block_on(check(history));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_between_the_result_and_what_follows() {
    let cluster = TestCluster::with_nodes(2, Limits::default()).await;
    let anyone = anonymous();
    let request = ask("{}", "", 0, None);
    let mut readers = Vec::new();
    let writing = async {
        for at in 0..200 {
            write(&cluster, &format!("k{at}"), &format!("{{\"n\":{at}}}")).await;
            // Without a disk to wait for nobody else would have a turn.
            tokio::task::yield_now().await;
        }
    };
    let opening = async {
        for at in 0..12 {
            let service = cluster.node(1 + at % 2);
            let mut live = open(service, &anyone, &request).await;
            let mut reader = Reader::default();
            reader.take(live.next().await.expect("the result"));
            readers.push((service, live, reader));
        }
    };
    tokio::join!(writing, opening);
    for (service, mut live, mut reader) in readers {
        reader.reach(&mut live, service, &anyone, &request).await;
    }
}

#[tokio::test]
async fn a_window_tells_who_is_pushed_out_before_who_comes_in() {
    let cluster = TestCluster::start().await;
    let request = ask(r#"{"age":49}"#, r#"{"name":1}"#, 1, Some(2));
    let mut live = open(&cluster.service, &anonymous(), &request).await;
    assert!(result(&mut live).await.is_empty());
    // All in one shard, so that they come in the order in which they are written.
    let key = |name: &str| format!("{{w}}{name}");
    let person = |name: &str| format!(r#"{{"age":49,"name":"{name}"}}"#);
    // Al is passed over.
    for name in ["Al", "Bob"] {
        write(&cluster, &key(name), &person(name)).await;
    }
    assert_eq!(
        step(&mut live).await,
        ("add", "insert", key("Bob"), Some(0))
    );
    write(&cluster, &key("Dave"), &person("Dave")).await;
    assert_eq!(
        step(&mut live).await,
        ("add", "insert", key("Dave"), Some(1))
    );
    write(&cluster, &key("Carl"), &person("Carl")).await;
    let pushed = next(&mut live).await;
    assert_eq!(
        (pushed.match_type, pushed.operation, pushed.index),
        (MatchType::Remove, LiveOperation::None, Some(-1))
    );
    assert_eq!(json(&pushed.body)["name"], "Dave");
    assert_eq!(json(&pushed.body)["version"], 1);
    assert_eq!(
        step(&mut live).await,
        ("add", "insert", key("Carl"), Some(1))
    );
    // Written within what is passed over: nobody is told. Then it moves behind Bob, who moves up.
    write(&cluster, &key("Al"), &person("Alvin")).await;
    write(&cluster, &key("Al"), &person("Bruno")).await;
    assert_eq!(
        step(&mut live).await,
        ("remove", "none", key("Bob"), Some(-1))
    );
    assert_eq!(step(&mut live).await, ("add", "update", key("Al"), Some(0)));
    write(&cluster, &key("Al"), &person("Carlo")).await;
    assert_eq!(
        step(&mut live).await,
        ("changeIndex", "update", key("Al"), Some(1))
    );
    delete(&cluster, &anonymous(), &key("Carl")).await;
    let gone = next(&mut live).await;
    assert_eq!(
        (gone.match_type, gone.operation),
        (MatchType::Remove, LiveOperation::Delete)
    );
    assert!(gone.body.is_empty(), "a deleted document has no version");
    assert_eq!(step(&mut live).await, ("add", "none", key("Dave"), Some(1)));
}

#[tokio::test]
async fn without_a_result_each_change_is_judged_by_its_sides() {
    let cluster = TestCluster::start().await;
    write(&cluster, "a", r#"{"n":1}"#).await;
    let request = LiveRequest {
        initial: false,
        ..ask(r#"{"n":{"$gt":5}}"#, "", 0, None)
    };
    let mut live = open(&cluster.service, &anonymous(), &request).await;
    for n in [6, 7, 1, 2] {
        write(&cluster, "a", &format!("{{\"n\":{n}}}")).await;
    }
    write(&cluster, "b", r#"{"n":9}"#).await;
    delete(&cluster, &anonymous(), "b").await;
    let mut told = Vec::new();
    for _ in 0..5 {
        let (step, operation, key, index) = step(&mut live).await;
        assert_eq!(index, None);
        told.push((key, step, operation));
    }
    // Two documents of perhaps two shards.
    told.sort_by(|one, two| one.0.cmp(&two.0));
    let told: Vec<_> = told
        .iter()
        .map(|(key, step, operation)| (key.as_str(), *step, *operation))
        .collect();
    let expected = [
        ("a", "add", "update"),
        ("a", "change", "update"),
        ("a", "remove", "update"),
        ("b", "add", "insert"),
        ("b", "remove", "delete"),
    ];
    assert_eq!(told, expected);
}

#[tokio::test]
async fn only_what_was_chosen_is_told() {
    let cluster = TestCluster::start().await;
    let all = ask("{}", "", 0, None);
    let matches = LiveRequest {
        match_types: vec![MatchType::Match],
        ..all.clone()
    };
    let deletes = LiveRequest {
        operations: vec![LiveOperation::Delete],
        ..all
    };
    let mut matches = open(&cluster.service, &anonymous(), &matches).await;
    let mut deletes = open(&cluster.service, &anonymous(), &deletes).await;
    for live in [&mut matches, &mut deletes] {
        assert!(result(live).await.is_empty());
    }
    for text in ["{}", r#"{"n":1}"#] {
        write(&cluster, "a", text).await;
    }
    delete(&cluster, &anonymous(), "a").await;
    write(&cluster, "a", "{}").await;
    for operation in ["insert", "update", "insert"] {
        assert_eq!(
            step(&mut matches).await,
            ("match", operation, "a".to_owned(), None)
        );
    }
    assert_eq!(
        step(&mut deletes).await,
        ("remove", "delete", "a".to_owned(), None)
    );
}

#[tokio::test]
async fn each_reader_is_told_what_it_may_read() {
    let cluster = TestCluster::start().await;
    let (root, anyone) = (cluster.root().await, anonymous());
    let request = ask("{}", r#"{"n":1}"#, 0, Some(2));
    let mut theirs = open(&cluster.service, &anyone, &request).await;
    let mut roots = open(&cluster.service, &root, &request).await;
    for live in [&mut theirs, &mut roots] {
        assert!(result(live).await.is_empty());
    }
    store(&cluster, &root, (1, Some((1, "secret", true)))).await;
    store(&cluster, &root, (2, Some((2, "open", false)))).await;
    assert_eq!(
        step(&mut roots).await,
        ("add", "insert", "k1".to_owned(), Some(0))
    );
    assert_eq!(
        step(&mut roots).await,
        ("add", "insert", "k2".to_owned(), Some(1))
    );
    assert_eq!(
        step(&mut theirs).await,
        ("add", "insert", "k2".to_owned(), Some(0))
    );
    // It leaves the sight of one of them, who is not told what it is now.
    store(&cluster, &root, (2, Some((3, "turned", true)))).await;
    let turned = next(&mut theirs).await;
    assert_eq!(
        (turned.match_type, turned.key.as_str()),
        (MatchType::Remove, "k2")
    );
    assert!(turned.body.is_empty());
    assert_eq!(
        step(&mut roots).await,
        ("change", "update", "k2".to_owned(), Some(1))
    );
    // And comes back.
    store(&cluster, &root, (1, Some((4, "open", false)))).await;
    assert_eq!(
        step(&mut theirs).await,
        ("add", "update", "k1".to_owned(), Some(0))
    );
}

#[tokio::test]
async fn a_session_that_ends_ends_its_subscriptions() {
    let cluster = TestCluster::start().await;
    let root = cluster.root().await;
    let mut live = open(&cluster.service, &root, &ask("{}", "", 0, None)).await;
    assert!(result(&mut live).await.is_empty());
    let ended = cluster.service.logout_everywhere(&root).await;
    ended.expect("all sessions of root are over");
    let error = loop {
        match live.next().await {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(error.code, ErrorCode::BadCredentials);
    assert_eq!(
        live.next().await.map_err(|error| error.code).err(),
        Some(ErrorCode::Unavailable)
    );
}

#[tokio::test]
async fn who_is_slow_is_told_the_difference_or_that_it_missed_something() {
    let limits = Limits {
        live_changes_max: 3,
        ..Limits::default()
    };
    let cluster = TestCluster::with_nodes(1, limits).await;
    let anyone = anonymous();
    let request = ask(r#"{"n":{"$gte":0}}"#, "", 0, None);
    let mut live = open(&cluster.service, &anyone, &request).await;
    let blind = LiveRequest {
        initial: false,
        ..request.clone()
    };
    let mut blind = open(&cluster.service, &anyone, &blind).await;
    for round in 0..3 {
        for at in 0..20 {
            write(
                &cluster,
                &format!("k{at}"),
                &format!("{{\"n\":{}}}", at - round),
            )
            .await;
        }
    }
    let mut reader = Reader::default();
    reader
        .reach(&mut live, &cluster.service, &anyone, &request)
        .await;
    let missed = loop {
        match blind.next().await {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(missed.code, ErrorCode::TooManyRequests);
}

#[tokio::test]
async fn what_cannot_be_subscribed_to_is_refused() {
    let limits = Limits {
        live_max: 1,
        live_window_max: 20,
        ..Limits::default()
    };
    let cluster = TestCluster::with_nodes(1, limits).await;
    let anyone = anonymous();
    let refused = async |request: LiveRequest| -> ErrorCode {
        let opened: Result<LiveQuery, Error> = cluster.service.subscribe(&anyone, request).await;
        opened.map(|_| ()).expect_err("refused").code
    };
    for (request, code) in [
        (ask("{", "", 0, None), ErrorCode::SyntaxError),
        (ask("{}", "[", 0, None), ErrorCode::SyntaxError),
        (
            ask(r#"{"$where":"1"}"#, "", 0, None),
            ErrorCode::QueryNotSupported,
        ),
        (ask("{}", "", 15, Some(6)), ErrorCode::QueryNotSupported),
        (ask("{}", "", 0, Some(0)), ErrorCode::BadRequest),
        (
            LiveRequest {
                bucket: "Nothing".to_owned(),
                ..ask("", "", 0, None)
            },
            ErrorCode::BucketNotFound,
        ),
        (
            LiveRequest {
                bucket: "logs.AppLog".to_owned(),
                ..ask("", "", 0, None)
            },
            ErrorCode::PermissionDenied,
        ),
        (
            LiveRequest {
                match_types: vec![MatchType::Add],
                operations: vec![LiveOperation::Insert],
                ..ask("", "", 0, None)
            },
            ErrorCode::BadRequest,
        ),
    ] {
        assert_eq!(refused(request.clone()).await, code, "{request:?}");
    }
    let one = open(&cluster.service, &anyone, &ask("", "", 0, None)).await;
    assert_eq!(
        refused(ask("", "", 0, None)).await,
        ErrorCode::TooManyRequests
    );
    drop(one);
    open(&cluster.service, &anyone, &ask("", "", 0, None)).await;
}

#[tokio::test]
async fn a_class_that_changes_is_seen() {
    let cluster = TestCluster::start().await;
    let root = cluster.root().await;
    let descriptor = |load: &str| {
        let query = match load {
            "closed" => r#"{"/db/Role/1":"allow"}"#,
            _ => "{}",
        };
        format!(
            r#"{{"class":"/db/Note","acl":{{"query":{query}}},"fields":{{"n":{{"name":"n","type":"/db/Integer","order":0}}}}}}"#
        )
    };
    cluster.add_class(&descriptor("open")).await;
    let request = LiveRequest {
        bucket: "Note".to_owned(),
        ..ask(r#"{"n":1}"#, "", 0, None)
    };
    let mut live = open(&cluster.service, &anonymous(), &request).await;
    assert!(result(&mut live).await.is_empty());
    let replaced = cluster
        .service
        .replace_class(&root, "Note", body(&descriptor("closed")))
        .await;
    replaced.expect("the class is closed");
    let error = live.next().await.expect_err("not for everybody any more");
    assert_eq!(error.code, ErrorCode::PermissionDenied);
}
