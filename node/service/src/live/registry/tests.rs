//! The index over filters against asking each.

use std::time::Instant;

use document::acl::{Access, Acl, Rules};
use document::body;
use document::query::Limits;
use document::schema::{Layout, Schema};
use futures::FutureExt as _;
use proptest::prelude::*;
use proptest::sample::select;
use proto::ShardId;

use super::super::Operation;
use super::super::event::Image;
use super::super::queue::Next;
use super::*;

const SCHEMA: &str = r#"[{"class":"/db/Thing","fields":{
    "n":{"name":"n","type":"/db/Integer","order":0},
    "flag":{"name":"flag","type":"/db/Boolean","order":1},
    "text":{"name":"text","type":"/db/String","order":2},
    "tags":{"name":"tags","type":"/db/collection.List[/db/Integer]","order":3},
    "at":{"name":"at","type":"/db/GeoPoint","order":4},
    "any":{"name":"any","type":"/db/JsonObject","order":5}}}]"#;

struct Class {
    schema: Schema,
    layout: Arc<Layout>,
}

impl Class {
    fn new() -> Class {
        let changes = Schema::parse_changes(SCHEMA.as_bytes()).expect("descriptors");
        let schema = Schema::system().merge(&changes, &Principal::root());
        let schema = schema.expect("a schema");
        let layout = Arc::new(schema.layout("Thing").expect("the class"));
        Class { schema, layout }
    }

    fn image(&self, key: &str, document: &str, acl: Option<Acl>) -> Image {
        let parsed = body::parse(
            document.as_bytes(),
            &self.layout,
            &self.schema,
            &body::Limits::default(),
        );
        let fields = parsed.expect(document).fields;
        let body = body::render("Thing", key, 3, acl.as_ref(), 0, 0, &fields);
        Image {
            version: 3,
            acl,
            body: body.into(),
        }
    }

    fn filter(&self, text: &str) -> Filter {
        Filter::parse(text.as_bytes(), &self.layout, &Limits::default()).expect(text)
    }

    fn watcher(&self, filter: &str, reader: Principal) -> Watcher {
        Watcher {
            database: 1,
            bucket: 1,
            filter: self.filter(filter),
            reader,
            queue: Queue::new(10),
        }
    }
}

fn event(before: Before, after: Option<Image>) -> Arc<Event> {
    Arc::new(Event {
        shard: ShardId(1),
        index: 1,
        time_us: 0,
        database: 1,
        bucket: 1,
        key: "k".to_owned(),
        operation: Operation::Update,
        before,
        after,
    })
}

fn documents() -> impl Strategy<Value = String> {
    let number = || (-2i64..6).prop_map(|n| n.to_string());
    let short = [r#""""#, r#""a""#, r#""ab""#, r#""b""#, "null"];
    let text = move || {
        prop_oneof![
            4 => select(short.to_vec()).prop_map(str::to_owned),
            1 => select(vec!["a", "b"]).prop_map(|end| format!("{:?}", long(end))),
        ]
    };
    let place =
        (-3i32..3, -3i32..3).prop_map(|(x, y)| format!(r#"{{"latitude":{x},"longitude":{y}}}"#));
    let tags =
        proptest::collection::vec(number(), 0..4).prop_map(|tags| format!("[{}]", tags.join(",")));
    let inner = prop_oneof![number(), text()].prop_map(|value| format!(r#"{{"x":{value}}}"#));
    (number(), any::<bool>(), text(), tags, place, inner).prop_map(
        |(n, flag, text, tags, at, any)| {
            format!(
                r#"{{"n":{n},"flag":{flag},"text":{text},"tags":{tags},"at":{at},"any":{any}}}"#
            )
        },
    )
}

fn filters() -> impl Strategy<Value = String> {
    let number = || -2i64..6;
    let relation = select(vec!["$gt", "$gte", "$lt", "$lte", "$ne", "$eq"]);
    let field = select(vec!["n", "tags", "any.x"]);
    let leaf = prop_oneof![
        (field.clone(), number()).prop_map(|(field, n)| format!(r#"{{"{field}":{n}}}"#)),
        (field.clone(), relation, number())
            .prop_map(|(field, relation, n)| format!(r#"{{"{field}":{{"{relation}":{n}}}}}"#)),
        (number(), number())
            .prop_map(|(one, two)| format!(r#"{{"n":{{"$gte":{one},"$lt":{two}}}}}"#)),
        (field, number(), number())
            .prop_map(|(field, one, two)| format!(r#"{{"{field}":{{"$in":[{one},{two}]}}}}"#)),
        any::<bool>().prop_map(|flag| format!(r#"{{"flag":{flag}}}"#)),
        select(vec!["^a", "^ab", "b$", "a"])
            .prop_map(|text| format!(r#"{{"text":{{"$regex":"{text}"}}}}"#)),
        select(vec!["a", "b"]).prop_map(|end| format!(r#"{{"text":{:?}}}"#, long(end))),
        select(vec!["$gt", "$lte"])
            .prop_map(|relation| format!(r#"{{"text":{{"{relation}":{:?}}}}}"#, long("a"))),
        Just(r#"{"text":null}"#.to_owned()),
        Just(r#"{"text":{"$exists":false}}"#.to_owned()),
        (number(), number()).prop_map(|(one, two)| format!(
            r#"{{"tags":{{"$elemMatch":{{"$gt":{one},"$lt":{two}}}}}}}"#
        )),
        (number(), number())
            .prop_map(|(one, two)| format!(r#"{{"tags":{{"$all":[{one},{two}]}}}}"#)),
        (-3i32..3, 1u32..300_000).prop_map(|(at, metres)| format!(
            r#"{{"at":{{"$nearSphere":{{"$geometry":{{"type":"Point","coordinates":[{at},0]}},"$maxDistance":{metres}}}}}}}"#
        )),
        Just(r#"{"id":"/db/Thing/k"}"#.to_owned()),
        Just("{}".to_owned()),
    ];
    leaf.prop_recursive(2, 6, 3, |inner| {
        let parts = proptest::collection::vec(
            inner.prop_filter("only at the top", |text| !text.contains("$nearSphere")),
            1..3,
        );
        (select(vec!["$and", "$or", "$nor"]), parts)
            .prop_map(|(word, parts)| format!(r#"{{"{word}":[{}]}}"#, parts.join(",")))
    })
}

/// A text beyond what indexes keep of it.
fn long(end: &str) -> String {
    "l".repeat(600) + end
}

fn user(name: &str) -> Principal {
    Principal {
        user: Some(format!("/db/User/{name}")),
        roles: Vec::new(),
    }
}

fn acls() -> impl Strategy<Value = Option<Acl>> {
    let only = |name: &str| Acl {
        read: Rules::new().with(&format!("/db/User/{name}"), Access::Allow),
        write: Rules::new(),
    };
    select(vec![None, Some(only("a")), Some(only("b"))])
}

/// Whether a change waits for the watcher, which it does not any more then.
fn is_told(watcher: &Watcher) -> bool {
    matches!(watcher.queue.next().now_or_never(), Some(Next::Change(_)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn the_same_are_told_as_if_each_was_asked(
        texts in proptest::collection::vec(filters(), 1..40),
        removed in proptest::collection::vec(any::<bool>(), 40),
        changes in proptest::collection::vec(
            (proptest::option::of((documents(), acls())), proptest::option::of((documents(), acls()))),
            8,
        ),
    ) {
        let class = Class::new();
        let mut registry = Registry::new(usize::MAX);
        let mut watchers = Vec::new();
        for (at, text) in texts.iter().enumerate() {
            let watcher = class.watcher(text, user(if at % 2 == 0 { "a" } else { "b" }));
            let id = registry.add(watcher.clone()).expect("room");
            watchers.push((id, watcher));
        }
        for at in (0..watchers.len()).rev().filter(|at| removed[*at]) {
            let (id, watcher) = watchers.swap_remove(at);
            registry.remove((1, 1), id);
            let other = event(Before::Nothing, Some(class.image("k", "{}", None)));
            registry.tell(&other);
            prop_assert!(!is_told(&watcher), "it was taken away");
            watchers.iter().for_each(|(_, watcher)| { is_told(watcher); });
        }
        for (before, after) in changes {
            let image = |side: Option<(String, Option<Acl>)>| side.map(|(document, acl)| class.image("k", &document, acl));
            let before = image(before).map_or(Before::Nothing, Before::Known);
            let event = event(before, image(after));
            registry.tell(&event);
            for (_, watcher) in &watchers {
                let sides = [event.was(&watcher.filter, &watcher.reader), event.is(&watcher.filter, &watcher.reader)];
                prop_assert_eq!(is_told(watcher), sides.contains(&Side::Match), "{}", watcher.filter.canonical());
            }
        }
        for (id, _) in watchers {
            registry.remove((1, 1), id);
        }
        prop_assert!(registry.is_empty());
    }
}

#[test]
fn of_a_side_that_is_trimmed_everybody_hears_who_could_read_it() {
    let class = Class::new();
    let mut registry = Registry::new(10);
    let (one, two) = (
        class.watcher(r#"{"n":1}"#, user("a")),
        class.watcher(r#"{"n":1}"#, user("b")),
    );
    for watcher in [&one, &two] {
        registry.add(watcher.clone()).expect("room");
    }
    let acl = Acl {
        read: Rules::new().with("/db/User/a", Access::Allow),
        write: Rules::new(),
    };
    registry.tell(&event(Before::Trimmed(Some(acl)), None));
    assert!(is_told(&one));
    assert!(!is_told(&two));
}

#[test]
fn filters_that_no_value_leads_to_have_a_bound() {
    let class = Class::new();
    let mut registry = Registry::new(1);
    let nobody = Principal::anonymous;
    registry.add(class.watcher("{}", nobody())).expect("room");
    let refused = registry.add(class.watcher(r#"{"n":{"$ne":1}}"#, nobody()));
    assert_eq!(
        refused.map_err(|error| error.code),
        Err(ErrorCode::TooManyRequests)
    );
    registry
        .add(class.watcher(r#"{"n":1}"#, nobody()))
        .expect("it has a value");
}

/// What a change costs with 10,000 filters, looked up and one by one. Run with `--run-ignored all --no-capture` and optimisations.
#[test]
#[ignore = "a measurement"]
fn cost_of_a_change_among_ten_thousand_filters() {
    let class = Class::new();
    let mut registry = Registry::new(0);
    let mut watchers = Vec::new();
    for at in 0..10_000 {
        let text = match at % 2 {
            0 => format!(r#"{{"n":{at}}}"#),
            _ => format!(r#"{{"n":{{"$gte":{at},"$lt":{}}}}}"#, at + 5),
        };
        let watcher = class.watcher(&text, Principal::anonymous());
        registry.add(watcher.clone()).expect("an anchor");
        watchers.push(watcher);
    }
    let changes: Vec<_> = (0..200)
        .map(|at| {
            let side = |n| class.image("k", &format!(r#"{{"n":{n},"text":"a"}}"#), None);
            event(Before::Known(side(at * 37)), Some(side(at * 37 + 1)))
        })
        .collect();
    let time = |tell: &dyn Fn(&Arc<Event>)| {
        let began = Instant::now();
        changes.iter().for_each(tell);
        began.elapsed() / changes.len() as u32
    };
    let looked_up = time(&|change| registry.tell(change));
    let one_by_one = time(&|change| watchers.iter().for_each(|watcher| watcher.tell(change)));
    println!("looked up {looked_up:?}, one by one {one_by_one:?}");
    assert!(
        one_by_one > looked_up * 50,
        "{looked_up:?} against {one_by_one:?}"
    );
}
