//! Random documents, filters and orders. Values are few and close to each other, so that conditions hold about as often as not.

use proptest::prelude::*;
use proptest::sample::select;

use crate::model::{Filter, Operator, Sort, Value};

pub(crate) const SCHEMA: &str = r#"[
    {"class":"/db/Part","embedded":true,"fields":{
        "name":{"name":"name","type":"/db/String","order":0},
        "count":{"name":"count","type":"/db/Integer","order":1},
        "since":{"name":"since","type":"/db/Date","order":2}}},
    {"class":"/db/Thing","fields":{
        "flag":{"name":"flag","type":"/db/Boolean","order":0},
        "int":{"name":"int","type":"/db/Integer","order":1},
        "dbl":{"name":"dbl","type":"/db/Double","order":2},
        "str":{"name":"str","type":"/db/String","order":3},
        "at":{"name":"at","type":"/db/DateTime","order":4},
        "day":{"name":"day","type":"/db/Date","order":5},
        "time":{"name":"time","type":"/db/Time","order":6},
        "part":{"name":"part","type":"/db/Part","order":7},
        "parts":{"name":"parts","type":"/db/collection.List[/db/Part]","order":8},
        "ints":{"name":"ints","type":"/db/collection.List[/db/Integer]","order":9},
        "ats":{"name":"ats","type":"/db/collection.List[/db/DateTime]","order":10},
        "map":{"name":"map","type":"/db/collection.Map[/db/String,/db/DateTime]","order":11},
        "json":{"name":"json","type":"/db/JsonObject","order":12},
        "list":{"name":"list","type":"/db/JsonArray","order":13}}}]"#;

fn integer() -> BoxedStrategy<Value> {
    let beyond_doubles = 1i64 << 53;
    prop_oneof![
        4 => -2i64..4,
        1 => beyond_doubles - 1..beyond_doubles + 3i64,
        1 => select(vec![i64::MIN, i64::MAX]),
    ]
    .prop_map(Value::Integer)
    .boxed()
}

fn double() -> BoxedStrategy<Value> {
    prop_oneof![
        4 => -5i64..10,
        1 => select(vec![1 << 55, (1 << 55) + 8, -(1 << 55), 1 << 62]),
    ]
    .prop_map(Value::Fourths)
    .boxed()
}

fn text() -> BoxedStrategy<Value> {
    let short = select(vec!["", "a", "ab", "b", "ä", "\"q\"\n", "a\u{0}"]).prop_map(str::to_owned);
    // Beyond what indexes keep of a value.
    let long = select(vec!["", "x", "y\u{0}"]).prop_map(|end| "a".repeat(600) + end);
    prop_oneof![3 => short, 1 => long]
        .prop_map(Value::Text)
        .boxed()
}

fn datetime() -> BoxedStrategy<Value> {
    select(vec![
        ("0000-12-31T23:59:59Z", -62_135_596_801_000),
        ("1970-01-01T00:00:01Z", 1_000),
        ("1970-01-01T00:00:01.05Z", 1_050),
        ("1970-01-01T00:00:01.5Z", 1_500),
        ("1970-01-01T00:00:02Z", 2_000),
    ])
    .prop_map(|(text, ms)| Value::Moment(text, ms))
    .boxed()
}

fn date() -> BoxedStrategy<Value> {
    select(vec![
        ("1969-12-31", -1),
        ("2020-02-03", 1),
        ("2020-02-04", 2),
    ])
    .prop_map(|(text, place)| Value::Moment(text, place))
    .boxed()
}

fn time() -> BoxedStrategy<Value> {
    select(vec![
        ("04:05:06Z", 0),
        ("04:05:06.05Z", 50),
        ("04:05:06.7Z", 700),
        ("23:00:00Z", 9_999),
    ])
    .prop_map(|(text, place)| Value::Moment(text, place))
    .boxed()
}

fn object(members: Vec<(&str, Value)>) -> Value {
    Value::Object(
        members
            .into_iter()
            .filter(|(_, value)| *value != Value::Null)
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
    )
}

fn part() -> BoxedStrategy<Value> {
    (or_null(text()), or_null(integer()), or_null(date()))
        .prop_map(|(name, count, since)| {
            object(vec![("name", name), ("count", count), ("since", since)])
        })
        .boxed()
}

fn or_null(values: BoxedStrategy<Value>) -> BoxedStrategy<Value> {
    prop_oneof![4 => values, 1 => Just(Value::Null)].boxed()
}

fn array(values: BoxedStrategy<Value>) -> BoxedStrategy<Value> {
    prop::collection::vec(values, 0..4)
        .prop_map(Value::Array)
        .boxed()
}

fn json_object(values: BoxedStrategy<Value>) -> BoxedStrategy<Value> {
    prop::collection::vec((select(vec!["a", "b", "0"]), values), 0..3)
        .prop_map(|members| {
            let mut object: Vec<(String, Value)> = Vec::new();
            for (name, value) in members {
                if object.iter().all(|(present, _)| present != name) {
                    object.push((name.to_owned(), value));
                }
            }
            Value::Object(object)
        })
        .boxed()
}

fn json() -> BoxedStrategy<Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        integer(),
        double(),
        text(),
        any::<bool>().prop_map(Value::Boolean),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![array(inner.clone()), json_object(inner)].boxed()
    })
    .boxed()
}

fn boolean() -> BoxedStrategy<Value> {
    any::<bool>().prop_map(Value::Boolean).boxed()
}

fn map() -> BoxedStrategy<Value> {
    (or_null(datetime()), or_null(datetime()))
        .prop_map(|(x, zero)| object(vec![("x", x), ("0", zero)]))
        .boxed()
}

/// A document, all fields present: unset ones are stored as null.
pub(crate) fn document() -> BoxedStrategy<Value> {
    let fields: Vec<(&str, BoxedStrategy<Value>)> = vec![
        ("flag", boolean()),
        ("int", integer()),
        ("dbl", double()),
        ("str", text()),
        ("at", datetime()),
        ("day", date()),
        ("time", time()),
        ("part", part()),
        ("parts", array(or_null(part()))),
        ("ints", array(or_null(integer()))),
        ("ats", array(datetime())),
        ("map", map()),
        ("json", json_object(json())),
        ("list", array(json())),
    ];
    fields
        .into_iter()
        .map(|(name, values)| or_null(values).prop_map(move |value| (name.to_owned(), value)))
        .collect::<Vec<_>>()
        .prop_map(Value::Object)
        .boxed()
}

/// Paths, and values that may stand there.
pub(crate) fn places() -> Vec<(&'static str, BoxedStrategy<Value>)> {
    vec![
        ("flag", boolean()),
        ("int", prop_oneof![integer(), double(), text()].boxed()),
        ("dbl", prop_oneof![integer(), double()].boxed()),
        ("str", text()),
        ("at", datetime()),
        ("day", date()),
        ("time", time()),
        ("part", part()),
        ("part.name", text()),
        ("part.since", date()),
        ("parts", prop_oneof![part(), array(part())].boxed()),
        ("parts.count", integer()),
        ("parts.since", date()),
        ("parts.1", part()),
        ("parts.0.count", integer()),
        ("parts.0.since", date()),
        (
            "ints",
            prop_oneof![integer(), double(), array(integer())].boxed(),
        ),
        ("ints.0", integer()),
        ("ats", prop_oneof![datetime(), array(datetime())].boxed()),
        ("ats.1", datetime()),
        ("map", map()),
        ("map.x", datetime()),
        ("map.0", datetime()),
        ("json", json_object(json())),
        ("json.a", json()),
        ("json.b.a", json()),
        ("json.a.0", json()),
        ("json.a.0.b", json()),
        ("list", json()),
        ("list.a", json()),
        ("list.0", json()),
        ("list.1.a", json()),
        ("list.0.0", json()),
        ("list.a.0.b", json()),
        ("nothing", json()),
        ("int.x", json()),
    ]
}

/// `objects` says whether elements there may be objects that [`element_filter`] is about.
fn operators(
    values: BoxedStrategy<Value>,
    objects: bool,
    depth: u32,
) -> BoxedStrategy<Vec<Operator>> {
    let value = || or_null(values.clone());
    let list = || prop::collection::vec(value(), 0..3);
    let flat = prop_oneof![
        4 => value().prop_map(Operator::Equal),
        1 => value().prop_map(Operator::NotEqual),
        2 => value().prop_map(Operator::Greater),
        2 => value().prop_map(Operator::GreaterOrEqual),
        2 => value().prop_map(Operator::Less),
        2 => value().prop_map(Operator::LessOrEqual),
        1 => list().prop_map(Operator::In),
        1 => list().prop_map(Operator::NotIn),
        1 => list().prop_map(Operator::All),
        1 => any::<bool>().prop_map(Operator::Exists),
        1 => (select(vec![-2i64, 1, 2, 3]), -1i64..3).prop_map(|(by, rest)| Operator::Remainder(by, rest)),
        1 => (0usize..4).prop_map(Operator::Size),
        1 => select(vec!["a", "ä", ""]).prop_map(|text| Operator::Begins(text.to_owned())),
    ]
    .boxed();
    let one = if depth == 0 {
        flat
    } else {
        let inner = operators(values, objects, depth - 1);
        prop_oneof![
            6 => flat,
            1 => inner.clone().prop_map(Operator::Not),
            1 => inner.prop_map(Operator::Element),
            u32::from(objects) => element_filter().prop_map(|filter| Operator::ElementObject(Box::new(filter))),
        ]
        .boxed()
    };
    prop::collection::vec(one, 1..3)
        .prop_map(|operators| {
            let mut distinct: Vec<Operator> = Vec::new();
            for operator in operators {
                if distinct
                    .iter()
                    .all(|present| present.name() != operator.name())
                {
                    distinct.push(operator);
                }
            }
            distinct
        })
        .boxed()
}

/// A filter for elements that are objects, of `parts` or of JSON.
fn element_filter() -> BoxedStrategy<Filter> {
    let members: Vec<(&str, BoxedStrategy<Value>)> = vec![
        ("name", text()),
        ("count", integer()),
        ("a", json()),
        ("a.b", json()),
    ];
    let field = select(members).prop_flat_map(|(path, values)| {
        operators(values, false, 0)
            .prop_map(move |operators| Filter::Field(path.to_owned(), operators))
    });
    prop_oneof![
        2 => field.clone(),
        1 => prop::collection::vec(field, 1..3).prop_map(Filter::Or),
    ]
    .boxed()
}

pub(crate) fn filter() -> BoxedStrategy<Filter> {
    filter_on(places())
}

/// A filter that looks at some of these paths.
pub(crate) fn filter_on(
    places: Vec<(&'static str, BoxedStrategy<Value>)>,
) -> BoxedStrategy<Filter> {
    let field = select(places).prop_flat_map(|(path, values)| {
        let objects = ["parts", "json", "list"]
            .iter()
            .any(|name| path.starts_with(name));
        operators(values, objects, 2)
            .prop_map(move |operators| Filter::Field(path.to_owned(), operators))
    });
    field
        .prop_recursive(2, 6, 3, |inner| {
            let parts = prop::collection::vec(inner, 1..4);
            prop_oneof![
                parts.clone().prop_map(Filter::And),
                parts.clone().prop_map(Filter::Or),
                parts.prop_map(Filter::Nor),
            ]
        })
        .boxed()
}

pub(crate) fn sort() -> BoxedStrategy<Sort> {
    sort_by(places().into_iter().map(|(path, _)| path).collect())
}

/// An order by some of these paths.
pub(crate) fn sort_by(paths: Vec<&'static str>) -> BoxedStrategy<Sort> {
    prop::collection::vec((select(paths), select(vec![1i64, -1])), 1..4)
        .prop_map(|fields| {
            let mut distinct: Vec<(String, i64)> = Vec::new();
            for (path, direction) in fields {
                if distinct.iter().all(|(present, _)| present != path) {
                    distinct.push((path.to_owned(), direction));
                }
            }
            Sort(distinct)
        })
        .boxed()
}
