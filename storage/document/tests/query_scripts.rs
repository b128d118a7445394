//! Runs the scripts in `tests/query`: which documents a filter matches, in which order, and what is refused. `UPDATE_GOLDENFILES=1`
//! rewrites their outputs.
//!
//! Commands:
//!
//! - `doc KEY JSON`: stores a document of the class `Thing` (see `SCHEMA`) as version 1 plus the number of those before it, each a second
//!   after the one before it, the first one at 1970-01-01T00:00:00Z.
//! - `match FILTER [sort=SORT]`: the keys of the documents that match, in order; or the refusal.

#![allow(
    clippy::unwrap_used,
    reason = "a failing script should panic where it fails"
)]

mod support {
    pub(crate) mod scripts;
    pub(crate) mod thing;
}

use std::error::Error;

use document::id;
use document::query::{self, Filter, Limits, Sort, Subject};

use self::support::scripts;
use self::support::thing::Thing;

const SCHEMA: &str = r#"[
    {"class":"/db/Part","embedded":true,"fields":{
        "name":{"name":"name","type":"/db/String","order":0},
        "count":{"name":"count","type":"/db/Integer","order":1},
        "since":{"name":"since","type":"/db/Date","order":2},
        "part":{"name":"part","type":"/db/Part","order":3}}},
    {"class":"/db/Thing","fields":{
        "flag":{"name":"flag","type":"/db/Boolean","order":0},
        "int":{"name":"int","type":"/db/Integer","order":1},
        "dbl":{"name":"dbl","type":"/db/Double","order":2},
        "str":{"name":"str","type":"/db/String","order":3},
        "at":{"name":"at","type":"/db/DateTime","order":4},
        "day":{"name":"day","type":"/db/Date","order":5},
        "time":{"name":"time","type":"/db/Time","order":6},
        "ref":{"name":"ref","type":"/db/Thing","order":7},
        "file":{"name":"file","type":"/db/File","order":8},
        "place":{"name":"place","type":"/db/GeoPoint","order":9},
        "places":{"name":"places","type":"/db/collection.List[/db/GeoPoint]","order":10},
        "part":{"name":"part","type":"/db/Part","order":11},
        "parts":{"name":"parts","type":"/db/collection.List[/db/Part]","order":12},
        "ints":{"name":"ints","type":"/db/collection.List[/db/Integer]","order":13},
        "tags":{"name":"tags","type":"/db/collection.Set[/db/String]","order":14},
        "days":{"name":"days","type":"/db/collection.Set[/db/Date]","order":15},
        "refs":{"name":"refs","type":"/db/collection.Set[/db/Thing]","order":16},
        "map":{"name":"map","type":"/db/collection.Map[/db/String,/db/DateTime]","order":17},
        "json":{"name":"json","type":"/db/JsonObject","order":18},
        "list":{"name":"list","type":"/db/JsonArray","order":19}}}]"#;

#[test]
fn scripts() {
    let thing = Thing::new(SCHEMA);
    scripts::run("query", || Runner {
        thing: &thing,
        documents: Vec::new(),
    });
}

struct Runner<'a> {
    thing: &'a Thing,
    /// Keys and stored fields.
    documents: Vec<(String, Vec<u8>)>,
}

impl goldenscript::Runner for Runner<'_> {
    type Command = goldenscript::Command;

    fn run(
        &mut self,
        command: &goldenscript::Command,
        _: &goldenscript::Context,
    ) -> Result<String, Box<dyn Error>> {
        let mut args = command.consume_args();
        let sort = args.take_key("sort").unwrap_or("").to_owned();
        let first = args.next_pos().ok_or("an argument is missing")?.to_owned();
        match command.name.as_str() {
            "doc" => {
                let json = args.next_pos().ok_or("the document is missing")?;
                self.documents.push((first, self.thing.fields(json)?));
                Ok(String::new())
            }
            "match" => Ok(match self.found(&first, &sort) {
                Ok(keys) if keys.is_empty() => "nothing\n".to_owned(),
                Ok(keys) => format!("{}\n", keys.join(" ")),
                Err(error) => format!("{}: {error}\n", kind(&error)),
            }),
            name => Err(format!("unknown command {name}").into()),
        }
    }
}

impl Runner<'_> {
    fn found(&self, filter: &str, sort: &str) -> Result<Vec<String>, query::Error> {
        let limits = Limits::default();
        let filter = Filter::parse(filter.as_bytes(), &self.thing.layout, &limits)?;
        let sort = filter.order(Sort::parse(sort.as_bytes(), &self.thing.layout, &limits)?);
        // What a filter and an order are sent as must read the same.
        let same =
            Filter::parse(filter.canonical().as_bytes(), &self.thing.layout, &limits).unwrap();
        assert_eq!(same.canonical(), filter.canonical());
        Sort::parse(sort.canonical().as_bytes(), &self.thing.layout, &limits).unwrap();
        let mut found = Vec::new();
        for (at, (key, fields)) in self.documents.iter().enumerate() {
            let subject = Subject {
                id: &id::object_id("Thing", key),
                version: 1 + at as u64,
                created_us: at as i64 * 1_000_000,
                // Finer than shown.
                updated_us: at as i64 * 1_000_000 + 999,
                fields,
            };
            assert_eq!(filter.matches(&subject), same.matches(&subject));
            if filter.matches(&subject) {
                found.push((sort.key(&subject), key.clone()));
            }
        }
        found.sort();
        Ok(found.into_iter().map(|(_, key)| key).collect())
    }
}

fn kind(error: &query::Error) -> &'static str {
    match error {
        query::Error::Syntax(_) => "Syntax",
        query::Error::Unsupported(_) => "Unsupported",
        query::Error::InvalidValue(_) => "InvalidValue",
        query::Error::Limit { .. } => "Limit",
    }
}
