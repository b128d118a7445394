//! How many documents a second one core asks. Prints; asserts nothing, since machines differ.
//!
//! `CARGO_PROFILE_DEV_OPT_LEVEL=3 cargo test -p document --test query_speed -- --ignored --nocapture`

use std::sync::Arc;
use std::time::Instant;

use document::acl::Principal;
use document::body;
use document::index::{Definition, Index};
use document::query::{Filter, Limits, Sort, Subject};
use document::schema::Schema;

const SCHEMA: &str = r#"[{"class":"/db/Film","fields":{
    "title":{"name":"title","type":"/db/String","order":0},
    "plot":{"name":"plot","type":"/db/String","order":1},
    "year":{"name":"year","type":"/db/Integer","order":2},
    "rating":{"name":"rating","type":"/db/Double","order":3},
    "genres":{"name":"genres","type":"/db/collection.Set[/db/String]","order":4},
    "released":{"name":"released","type":"/db/Date","order":5},
    "place":{"name":"place","type":"/db/GeoPoint","order":6},
    "details":{"name":"details","type":"/db/JsonObject","order":7}}}]"#;

#[test]
#[ignore = "a measurement"]
fn documents_a_second() {
    let changes = Schema::parse_changes(SCHEMA.as_bytes()).expect("a schema");
    let schema = Schema::system()
        .merge(&changes, &Principal::root())
        .expect("a schema");
    let layout = Arc::new(schema.layout("Film").expect("a class"));
    let documents: Vec<Vec<u8>> = (0..20_000)
        .map(|at| {
            let text = serde_json::json!({
                "title": format!("Film number {at}"), "plot": "A plot in plain words. ".repeat(30), "year": 1950 + at % 70,
                "rating": f64::from(at % 100) / 10.0, "genres": ["drama", if at % 7 == 0 { "comedy" } else { "crime" }],
                "released": format!("{}-0{}-1{}", 1950 + at % 70, 1 + at % 9, at % 9),
                "place": {"latitude": f64::from(at % 90), "longitude": f64::from(at % 180)},
                "details": {"gross": {"us": at, "world": at * 3}, "awards": [{"name": "x", "year": 1990}, {"name": "y"}]},
            });
            let text = text.to_string();
            body::parse(text.as_bytes(), &layout, &schema, &body::Limits::default()).expect("valid").fields
        })
        .collect();
    println!("{} bytes a document", documents[0].len());
    for text in [
        r#"{"title":"Film number 77"}"#,
        r#"{"year":{"$gt":1980,"$lt":1990},"rating":{"$gte":7.5}}"#,
        r#"{"genres":"comedy"}"#,
        r#"{"released":{"$gt":{"$date":"2000-01-01T00:00:00.000Z"}}}"#,
        r#"{"plot":{"$regex":"^.*unknown"}}"#,
        r#"{"details.gross.world":{"$mod":[1000,0]}}"#,
        r#"{"place":{"$geoWithin":{"$geometry":{"type":"Polygon","coordinates":[[[9,53],[14,53],[14,54],[9,54]]]}}}}"#,
        r#"{"nothing":1}"#,
    ] {
        let filter = Filter::parse(text.as_bytes(), &layout, &Limits::default()).expect(text);
        let begun = Instant::now();
        let mut found = 0;
        for _ in 0..5 {
            found += documents
                .iter()
                .filter(|fields| filter.matches(&subject(fields)))
                .count();
        }
        let rate = 5.0 * documents.len() as f64 / begun.elapsed().as_secs_f64();
        println!("{rate:>12.0}/s, {:>6} found: {text}", found / 5);
    }
    for text in [r#"{"year":1}"#, r#"{"title":-1,"rating":1}"#] {
        let sort = Sort::parse(text.as_bytes(), &layout, &Limits::default()).expect(text);
        let begun = Instant::now();
        let keys: usize = documents
            .iter()
            .map(|fields| sort.key(&subject(fields)).as_bytes().len())
            .sum();
        let rate = documents.len() as f64 / begun.elapsed().as_secs_f64();
        println!("{rate:>12.0}/s, {keys} bytes of keys: {text}");
    }
    for text in [
        r#"{"keys":[{"year":"asc"}]}"#,
        r#"{"keys":[{"title":"asc"},{"rating":"desc"}]}"#,
        r#"{"keys":[{"genres":"asc"}]}"#,
        r#"{"keys":[{"place":"geo"}]}"#,
    ] {
        let definition = Definition::parse(text.as_bytes()).expect(text);
        let index = Index::compile(&definition, &layout).expect(text);
        let begun = Instant::now();
        let values: usize = documents
            .iter()
            .map(|fields| index.values(&subject(fields)).expect("few").len())
            .sum();
        let rate = documents.len() as f64 / begun.elapsed().as_secs_f64();
        println!("{rate:>12.0}/s, {values} values: {text}");
    }
}

fn subject(fields: &[u8]) -> Subject<'_> {
    Subject {
        id: "/db/Film/1",
        version: 1,
        created_us: 0,
        updated_us: 0,
        fields,
    }
}
