//! Filters and orders against a model: brute force over trees of values, as simple as it can be written.
//!
//! `model` says what MongoDB's rules are; `cases` makes random documents, filters and orders, mostly of values that are close to each
//! other. The document's side goes all the way: a body is parsed and stored, and the filter is text.

mod cases;
mod model;

use std::sync::Arc;

use document::acl::Principal;
use document::query::{Filter, Limits, Sort, SortKey, Subject};
use document::schema::{Layout, Schema};
use document::{body, id};
use proptest::prelude::*;

use self::model::Value;

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

    /// The fields of a document as they are stored.
    fn store(&self, document: &Value) -> Vec<u8> {
        let text = document.to_json().to_string();
        let limits = body::Limits::default();
        let parsed = body::parse(text.as_bytes(), &self.layout, &self.schema, &limits);
        parsed.expect(&text).fields
    }

    fn filter(&self, filter: &model::Filter) -> Filter {
        let text = filter.to_json().to_string();
        Filter::parse(text.as_bytes(), &self.layout, &Limits::default()).expect(&text)
    }

    fn sort(&self, sort: &model::Sort) -> Sort {
        let text = sort.to_json().to_string();
        Sort::parse(text.as_bytes(), &self.layout, &Limits::default()).expect(&text)
    }
}

fn subject<'a>(id: &'a str, fields: &'a [u8]) -> Subject<'a> {
    Subject {
        id,
        version: 1,
        created_us: 0,
        updated_us: 0,
        fields,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn filters_match_what_the_model_matches(
        documents in prop::collection::vec(cases::document(), 8),
        filters in prop::collection::vec(cases::filter(), 24),
    ) {
        let class = Class::new();
        let stored: Vec<Vec<u8>> = documents.iter().map(|document| class.store(document)).collect();
        for model in &filters {
            let filter = class.filter(model);
            for (document, fields) in documents.iter().zip(&stored) {
                prop_assert_eq!(
                    filter.matches(&subject("/db/Thing/1", fields)),
                    model.matches(document),
                    "{} on {}",
                    filter.canonical(),
                    String::from_utf8_lossy(fields)
                );
            }
        }
    }

    #[test]
    fn orders_are_those_of_the_model(
        documents in prop::collection::vec(cases::document(), 12),
        sorts in prop::collection::vec(cases::sort(), 6),
    ) {
        let class = Class::new();
        let ids: Vec<String> =
            (0..documents.len()).map(|key| id::object_id("Thing", &format!("{key:02}"))).collect();
        let stored: Vec<Vec<u8>> = documents.iter().map(|document| class.store(document)).collect();
        for model in &sorts {
            let sort = class.sort(model);
            let keys: Vec<SortKey> =
                ids.iter().zip(&stored).map(|(id, fields)| sort.key(&subject(id, fields))).collect();
            for one in 0..keys.len() {
                prop_assert_eq!(&SortKey::from_bytes(keys[one].as_bytes()), &keys[one]);
                for two in 0..keys.len() {
                    let expected = model.compare(&documents[one], &documents[two]).then(one.cmp(&two));
                    prop_assert_eq!(
                        keys[one].cmp(&keys[two]),
                        expected,
                        "{} of {} and {}",
                        sort.canonical(),
                        String::from_utf8_lossy(&stored[one]),
                        String::from_utf8_lossy(&stored[two])
                    );
                }
            }
        }
    }
}
