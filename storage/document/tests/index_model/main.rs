//! Indexes against brute force: what plans read, in which order, and what they promise, for random documents, definitions, filters and
//! orders. What a filter matches and how documents are ordered is said by the model of `query_model`, which knows no indexes.
//!
//! `LARDER_SOAK=1` runs more cases.

#[path = "../query_model/cases.rs"]
mod cases;
#[path = "../query_model/model.rs"]
mod model;
mod walk;

use std::collections::BTreeSet;
use std::sync::Arc;

use document::acl::Principal;
use document::index::{
    Access, Candidate, Definition, Index, IndexSecret, Kind, Range, SECRET_BYTES, Statistics, plan,
};
use document::query::{Filter, Limits, Sort};
use document::schema::{Layout, Schema};
use document::{body, id};
use proptest::prelude::*;
use proptest::sample::select;

use self::model::Value;
use self::walk::{Document, Entries};

struct Class {
    schema: Schema,
    layout: Arc<Layout>,
}

impl Class {
    fn new() -> Class {
        let changes = Schema::parse_changes(cases::SCHEMA.as_bytes()).expect("a schema");
        let schema = Schema::system()
            .merge(&changes, &Principal::root())
            .expect("a schema");
        let layout = Arc::new(schema.layout("Thing").expect("a class"));
        Class { schema, layout }
    }

    fn store(&self, at: usize, value: Value) -> Document {
        let text = value.to_json().to_string();
        let limits = body::Limits::default();
        let parsed = body::parse(text.as_bytes(), &self.layout, &self.schema, &limits);
        Document {
            id: id::object_id("Thing", &format!("{at:02}")),
            fields: parsed.expect(&text).fields,
            value,
        }
    }

    /// `None`: it can be no index here.
    fn index(&self, definition: &Definition) -> Option<Index> {
        let secret = IndexSecret::of_bytes(&[7; SECRET_BYTES]).expect("a secret");
        Index::compile_hashed(definition, &self.layout, &secret, 1).ok()
    }

    fn filter(&self, filter: &model::Filter) -> Filter {
        if matches!(filter, model::Filter::And(parts) if parts.is_empty()) {
            return Filter::all();
        }
        let text = filter.to_json().to_string();
        Filter::parse(text.as_bytes(), &self.layout, &Limits::default()).expect(&text)
    }

    fn sort(&self, sort: &model::Sort) -> Sort {
        let text = sort.to_json().to_string();
        Sort::parse(text.as_bytes(), &self.layout, &Limits::default()).expect(&text)
    }
}

/// Makes indexes cheap, so that plans take them.
struct Large<'a>(&'a [Entries]);

impl Statistics for Large<'_> {
    fn documents(&mut self) -> u64 {
        1_000_000
    }

    fn entries(&mut self, index: u32, ranges: &[Range], _: u64) -> u64 {
        let entries = &self.0[index as usize];
        ranges
            .iter()
            .map(|range| entries.within(range).count() as u64)
            .sum()
    }
}

#[derive(Debug)]
struct Case {
    documents: Vec<Value>,
    definitions: Vec<Definition>,
    filters: Vec<model::Filter>,
    sorts: Vec<model::Sort>,
    wanted: usize,
}

type Places = Vec<(&'static str, BoxedStrategy<Value>)>;

fn case() -> impl Strategy<Value = Case> {
    case_of(cases::places, cases::document())
}

/// Texts that differ behind what indexes keep of them.
fn long_case() -> impl Strategy<Value = Case> {
    let texts = || {
        let ends = select(vec!["", "a", "b", "\u{0}"]);
        prop_oneof![6 => ends.prop_map(|end| "l".repeat(600) + end), 1 => Just("l".repeat(500)), 1 => Just(String::new())]
            .prop_map(Value::Text)
            .boxed()
    };
    let places = move || -> Places {
        vec![
            ("str", texts()),
            ("int", (0i64..3).prop_map(Value::Integer).boxed()),
        ]
    };
    let fields: Vec<_> = places()
        .into_iter()
        .map(|(name, values)| values.prop_map(move |value| (name.to_owned(), value)))
        .collect();
    case_of(places, fields.prop_map(Value::Object).boxed())
}

/// Filters and orders look mostly at what is indexed.
fn case_of(
    places: impl Fn() -> Places + 'static,
    document: BoxedStrategy<Value>,
) -> impl Strategy<Value = Case> {
    let paths: Vec<&str> = places().into_iter().map(|(path, _)| path).collect();
    let kind = select(vec![
        Kind::Ascending,
        Kind::Descending,
        Kind::Ascending,
        Kind::Descending,
        Kind::Hashed,
    ]);
    let key = (select(paths), kind);
    let keys = prop::collection::vec(key, 1..4).prop_map(|keys| {
        let mut distinct: Vec<(&str, Kind)> = Vec::new();
        for key in keys {
            if distinct.iter().all(|(path, _)| *path != key.0) {
                distinct.push(key);
            }
        }
        distinct
    });
    prop::collection::vec(keys, 2).prop_flat_map(move |keys| {
        let indexed: Vec<&'static str> = keys.iter().flatten().map(|(path, _)| *path).collect();
        let places = places()
            .into_iter()
            .filter(|(path, _)| indexed.contains(path))
            .collect();
        let filter = prop_oneof![
            4 => cases::filter_on(places),
            1 => cases::filter(),
            1 => Just(model::Filter::And(Vec::new())),
        ];
        let sort = prop_oneof![3 => cases::sort_by(indexed), 1 => cases::sort(), 1 => Just(model::Sort(Vec::new()))];
        let definitions: Vec<Definition> = keys
            .iter()
            .map(|keys| Definition {
                keys: keys.iter().map(|(path, kind)| ((*path).to_owned(), *kind)).collect(),
                unique: false,
            })
            .collect();
        (
            prop::collection::vec(document.clone(), 12),
            Just(definitions),
            prop::collection::vec(filter, 12),
            prop::collection::vec(sort, 3),
            1usize..6,
        )
            .prop_map(|(documents, definitions, filters, sorts, wanted)| Case {
                documents,
                definitions,
                filters,
                sorts,
                wanted,
            })
    })
}

fn cases_count(bounded: u32) -> u32 {
    match std::env::var("LARDER_SOAK").as_deref() {
        Ok("1") => bounded * 50,
        _ => bounded,
    }
}

/// Those of the definitions that can be indexes here, closed where no document has a list, and the documents that fit into all of them.
fn built(class: &Class, case: &Case) -> (Vec<Document>, Vec<Entries>) {
    let indexes: Vec<Index> = case
        .definitions
        .iter()
        .filter_map(|definition| class.index(definition))
        .collect();
    let mut documents: Vec<Document> = case
        .documents
        .iter()
        .enumerate()
        .map(|(at, value)| class.store(at, value.clone()))
        .collect();
    documents.retain(|document| {
        indexes
            .iter()
            .all(|index| index.values(&document.subject()).is_ok())
    });
    let entries = indexes
        .into_iter()
        .map(|index| {
            let mut subjects = documents.iter().map(Document::subject);
            let is_closed = !subjects.any(|subject| index.meets_list(&subject));
            let index = if is_closed { index.closed() } else { index };
            Entries::of(index, &documents)
        })
        .collect();
    (documents, entries)
}

fn check(case: &Case) -> Result<(), TestCaseError> {
    let class = Class::new();
    let (documents, entries) = built(&class, case);
    let candidates: Vec<Candidate> = entries
        .iter()
        .enumerate()
        .map(|(id, entries)| Candidate {
            id: id as u32,
            index: entries.index.clone(),
        })
        .collect();
    for filter_model in &case.filters {
        let filter = class.filter(filter_model);
        let matching: BTreeSet<usize> = (0..documents.len())
            .filter(|at| filter_model.matches(&documents[*at].value))
            .collect();
        for sort_model in &case.sorts {
            let sort = class.sort(sort_model);
            let wanted = Some(case.wanted as u64);
            let plan =
                plan(&filter, &sort, wanted, &candidates, &mut Large(&entries)).expect("no places");
            let accesses = match &plan.access {
                Access::Scan => continue,
                Access::Keys(keys) => {
                    prop_assert!(
                        keys.is_empty() && matching.is_empty(),
                        "{} has no ids",
                        filter.canonical()
                    );
                    continue;
                }
                Access::Index(access) => std::slice::from_ref(access),
                Access::Union(accesses) => accesses.as_slice(),
            };
            let about = || {
                format!(
                    "{} by {} with {:?}: {plan:?}",
                    filter.canonical(),
                    sort.canonical(),
                    case.definitions
                )
            };
            let mut found = BTreeSet::new();
            for access in accesses {
                let entries = &entries[access.id as usize];
                let mut count = 0;
                for (at, range) in access.ranges.iter().enumerate() {
                    prop_assert!(range.to.is_empty() || range.from < range.to, "{}", about());
                    let is_next = access
                        .ranges
                        .get(at + 1)
                        .is_none_or(|next| !range.to.is_empty() && range.to <= next.from);
                    prop_assert!(is_next, "{}", about());
                    prop_assert!(!entries.index.describe(range).is_empty());
                    for entry in entries.within(range) {
                        count += usize::from(found.insert(entry.document));
                    }
                }
                let all: usize = access
                    .ranges
                    .iter()
                    .map(|range| entries.within(range).count())
                    .sum();
                let is_once = accesses.len() > 1 || count == all;
                prop_assert!(access.is_multiple || is_once, "{}", about());
            }
            for at in &matching {
                prop_assert!(
                    found.contains(at),
                    "{} is missing: {}",
                    documents[*at],
                    about()
                );
            }
            if plan.is_exact {
                for at in &found {
                    prop_assert!(
                        matching.contains(at),
                        "{} does not match: {}",
                        documents[*at],
                        about()
                    );
                }
            }
            let [access] = accesses else { continue };
            let Some(order) = access.order else { continue };
            let entries = &entries[access.id as usize];
            let mut expected: Vec<usize> = matching.iter().copied().collect();
            expected.sort_by(|one, two| {
                sort_model
                    .compare(&documents[*one].value, &documents[*two].value)
                    .then(one.cmp(two))
            });
            // From the beginning, then on from the place of each document.
            for place in std::iter::once(None).chain(expected.iter().map(Some)) {
                let mut access = access.clone();
                let expected = match place {
                    None => &expected[..],
                    Some(at) => {
                        access.resume(&entries.index, &sort.key(&documents[*at].subject()));
                        let passed = expected
                            .iter()
                            .position(|other| other == at)
                            .map_or(0, |at| at + 1);
                        &expected[passed..]
                    }
                };
                let place = place.map(|at| sort.key(&documents[*at].subject()));
                let top = entries.first(
                    &access,
                    order,
                    &documents,
                    &sort,
                    place.as_ref(),
                    case.wanted,
                    &|at| matching.contains(&at),
                );
                let expected = &expected[..expected.len().min(case.wanted)];
                prop_assert_eq!(&top[..], expected, "after {:?}: {}", place, about());
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases_count(400), max_shrink_iters: 500, ..ProptestConfig::default() })]

    #[test]
    fn plans_find_what_filters_match(case in case()) {
        check(&case)?;
    }

    #[test]
    fn cut_off_values_are_found_and_ordered(case in long_case()) {
        check(&case)?;
    }

    #[test]
    fn values_are_those_of_orders(case in case()) {
        let class = Class::new();
        let (documents, entries) = built(&class, &case);
        for Entries { index, .. } in &entries {
            let definition = index.definition();
            let bytes = index.to_bytes();
            let again = Index::from_bytes(&bytes).expect("own bytes");
            prop_assert_eq!(again.to_bytes(), bytes);
            prop_assert_eq!(again.definition(), definition);
            let sort = model::Sort(definition.keys.iter().map(|(path, kind)| {
                (path.clone(), if *kind == Kind::Descending { -1 } else { 1 })
            }).collect());
            let sort = class.sort(&sort);
            let has_index = definition.keys.iter().any(|(path, _)| path.contains(['0', '1']));
            for document in &documents {
                let subject = document.subject();
                let values = index.values(&subject).expect("few");
                prop_assert!(!values.is_empty());
                prop_assert!(values.windows(2).all(|pair| pair[0] < pair[1]));
                prop_assert_eq!(&again.values(&subject).expect("few"), &values);
                for value in &values {
                    let place = [&value[..], document.key().as_bytes()].concat();
                    prop_assert_eq!(index.value_end(&place), value.len());
                    prop_assert_eq!(index.prefix(&place, definition.keys.len()), &value[..]);
                }
                // The least value is the one that decides, as far as it is kept.
                let key = sort.key(&subject);
                let key = &key.as_bytes()[..key.as_bytes().len() - document.id.len()];
                if !has_index && !definition.is_hashed() && key.len() < 512 {
                    prop_assert_eq!(&values[0][..], key, "{} in {:?}", document, definition);
                }
            }
        }
    }

    #[test]
    fn no_bytes_stop_the_reader(bytes in any::<Vec<u8>>(), case in case(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let _ = Index::from_bytes(&bytes);
        let class = Class::new();
        for definition in &case.definitions {
            let Some(index) = class.index(definition) else { continue };
            let mut bytes = index.to_bytes();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Ok(index) = Index::from_bytes(&bytes) {
                let document = class.store(0, case.documents[0].clone());
                let _ = index.values(&document.subject());
            }
        }
    }
}

#[test]
fn a_document_has_a_thousand_values_at_most() {
    let class = Class::new();
    let definition = |unique| Definition {
        keys: vec![("list".to_owned(), Kind::Ascending)],
        unique,
    };
    let index = Index::compile(&definition(true), &class.layout).expect("an index");
    let document = |values: &mut dyn Iterator<Item = i64>| {
        let list = Value::Array(values.map(Value::Integer).collect());
        class.store(0, Value::Object(vec![("list".to_owned(), list)]))
    };
    let most = document(&mut (0..Index::VALUES_MAX as i64));
    assert_eq!(
        index.values(&most.subject()).map(|values| values.len()),
        Ok(Index::VALUES_MAX)
    );
    assert_eq!(
        index
            .unique_values(&most.subject())
            .map(|values| values.len()),
        Ok(Index::VALUES_MAX)
    );
    let more = document(&mut (0..=Index::VALUES_MAX as i64));
    assert!(index.values(&more.subject()).is_err());
    assert!(index.unique_values(&more.subject()).is_err());
    // Each once, however often it is there.
    let equal = document(&mut (0..50_000).map(|at| at % 7));
    assert_eq!(
        index.values(&equal.subject()).map(|values| values.len()),
        Ok(7)
    );
}

#[test]
fn unique_values_are_not_cut_off() {
    let class = Class::new();
    let definition = Definition {
        keys: vec![("str".to_owned(), Kind::Ascending)],
        unique: true,
    };
    let index = Index::compile(&definition, &class.layout).expect("an index");
    let document = |end: &str| {
        let text = Value::Text("l".repeat(600) + end);
        class.store(0, Value::Object(vec![("str".to_owned(), text)]))
    };
    let (one, two) = (document("a"), document("b"));
    assert_eq!(index.values(&one.subject()), index.values(&two.subject()));
    assert_ne!(
        index.unique_values(&one.subject()),
        index.unique_values(&two.subject())
    );
}
