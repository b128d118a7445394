//! Runs the scripts in `tests/index`: what can be an index, which values documents have in it, and which plans are chosen.
//! `UPDATE_GOLDENFILES=1` rewrites their outputs.
//!
//! Commands:
//!
//! - `doc KEY JSON`: stores a document of the class `Thing` (see `SCHEMA`).
//! - `index ID JSON`: an index, kept up from the beginning; or the refusal.
//! - `close ID`: from now on as for documents without lists where the types leave it open.
//! - `bytes ID`: the compiled definition as it is stored.
//! - `values ID KEY`: the values of a document in an index, hexadecimal.
//! - `unique ID KEY`: the first bytes of the hashes of its unique values, hexadecimal.
//! - `plan FILTER [sort=SORT] [wanted=COUNT] [each=COUNT] [others=COUNT] [max=COUNT]`: the plan. Each document stands for so many like it,
//!   and there are so many others, 1,000 unless told, which have no entries that matter. Checks also that the plan finds what the filter
//!   matches.

#![allow(
    clippy::unwrap_used,
    reason = "a failing script should panic where it fails"
)]

mod support {
    pub(crate) mod scripts;
    pub(crate) mod thing;
}

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt::Write;

use document::id;
use document::index::{
    Access, Candidate, Definition, Index, IndexAccess, IndexSecret, Range, SECRET_BYTES,
    Statistics, plan,
};
use document::query::{Filter, Limits, Sort, Subject};

use self::support::scripts;
use self::support::thing::Thing;

const SCHEMA: &str = r#"[
    {"class":"/db/Part","embedded":true,"fields":{
        "name":{"name":"name","type":"/db/String","order":0},
        "since":{"name":"since","type":"/db/Date","order":1},
        "parts":{"name":"parts","type":"/db/collection.List[/db/Part]","order":2}}},
    {"class":"/db/Thing","fields":{
        "flag":{"name":"flag","type":"/db/Boolean","order":0},
        "int":{"name":"int","type":"/db/Integer","order":1},
        "dbl":{"name":"dbl","type":"/db/Double","order":2},
        "str":{"name":"str","type":"/db/String","order":3},
        "at":{"name":"at","type":"/db/DateTime","order":4},
        "place":{"name":"place","type":"/db/GeoPoint","order":5},
        "places":{"name":"places","type":"/db/collection.List[/db/GeoPoint]","order":6},
        "part":{"name":"part","type":"/db/Part","order":7},
        "parts":{"name":"parts","type":"/db/collection.List[/db/Part]","order":8},
        "tags":{"name":"tags","type":"/db/collection.Set[/db/String]","order":9},
        "ints":{"name":"ints","type":"/db/collection.List[/db/Integer]","order":10},
        "map":{"name":"map","type":"/db/collection.Map[/db/String,/db/DateTime]","order":11},
        "json":{"name":"json","type":"/db/JsonObject","order":12},
        "list":{"name":"list","type":"/db/JsonArray","order":13}}}]"#;

#[test]
fn scripts() {
    let thing = Thing::new(SCHEMA);
    scripts::run("index", || Runner {
        thing: &thing,
        documents: BTreeMap::new(),
        indexes: Vec::new(),
    });
}

struct Runner<'a> {
    thing: &'a Thing,
    /// Stored fields by key.
    documents: BTreeMap<String, Vec<u8>>,
    indexes: Vec<Candidate>,
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
        let mut number = |name: &str| {
            args.take_key(name)
                .map(|number| number.parse::<u64>().unwrap())
        };
        let (wanted, max) = (number("wanted"), number("max"));
        let (each, others) = (number("each"), number("others"));
        let first = args.next_pos().ok_or("an argument is missing")?.to_owned();
        let second = args.next_pos();
        match (command.name.as_str(), second) {
            ("doc", Some(json)) => {
                self.documents.insert(first, self.thing.fields(json)?);
                Ok(String::new())
            }
            ("index", Some(json)) => {
                let secret = IndexSecret::of_bytes(&[7; SECRET_BYTES]).unwrap();
                let compile = |definition: Definition| match definition.is_hashed() {
                    true => Index::compile_hashed(&definition, &self.thing.layout, &secret, 1),
                    false => Index::compile(&definition, &self.thing.layout),
                };
                match Definition::parse(json.as_bytes()).and_then(compile) {
                    Ok(index) => {
                        let id = first.parse()?;
                        self.indexes.push(Candidate { id, index });
                        Ok(String::new())
                    }
                    Err(error) => Ok(format!("{error:?}\n")),
                }
            }
            ("close", None) => {
                let index = self.index(&first).closed();
                let id: u32 = first.parse()?;
                let mut all = self.indexes.iter_mut();
                all.find(|one| one.id == id).ok_or("unknown index")?.index = index;
                Ok(String::new())
            }
            ("bytes", None) => Ok(format!(
                "{}\n",
                String::from_utf8(self.index(&first).to_bytes())?
            )),
            ("values", Some(key)) => {
                let values = self.ask(&first, key, Index::values);
                Ok(values.map_or("too many\n".to_owned(), |values| hex(&values)))
            }
            ("unique", Some(key)) => {
                let hashes = self.ask(&first, key, Index::unique_values).unwrap();
                let begins: Vec<Vec<u8>> = hashes.iter().map(|hash| hash[..4].to_vec()).collect();
                Ok(hex(&begins))
            }
            ("plan", None) => {
                let statistics = Counts {
                    runner: self,
                    each: each.unwrap_or(1),
                    others: others.unwrap_or(1_000),
                    max: max.unwrap_or(u64::MAX),
                };
                self.plan(&first, &sort, wanted, statistics)
            }
            (name, _) => Err(format!("unknown command {name}").into()),
        }
    }
}

/// Counts, scaled up.
struct Counts<'a> {
    runner: &'a Runner<'a>,
    each: u64,
    others: u64,
    max: u64,
}

impl Statistics for Counts<'_> {
    fn documents(&mut self) -> u64 {
        self.runner.documents.len() as u64 * self.each + self.others
    }

    fn entries(&mut self, index: u32, ranges: &[Range], _: u64) -> u64 {
        self.runner.found(index, ranges).len() as u64 * self.each
    }

    fn examined_max(&mut self) -> u64 {
        self.max
    }
}

impl Runner<'_> {
    fn index(&self, id: &str) -> &Index {
        let id: u32 = id.parse().unwrap();
        &self
            .indexes
            .iter()
            .find(|candidate| candidate.id == id)
            .unwrap()
            .index
    }

    fn ask<T>(&self, index: &str, key: &str, ask: fn(&Index, &Subject<'_>) -> T) -> T {
        ask(
            self.index(index),
            &subject(&id::object_id("Thing", key), &self.documents[key]),
        )
    }

    /// Keys of the documents that have a value in the ranges, once for each value.
    fn found(&self, index: u32, ranges: &[Range]) -> Vec<&str> {
        let index = self.index(&index.to_string());
        let mut found = Vec::new();
        for (key, fields) in &self.documents {
            for value in index
                .values(&subject(&id::object_id("Thing", key), fields))
                .unwrap()
            {
                let is_within = |range: &Range| {
                    value >= range.from && (range.to.is_empty() || value < range.to)
                };
                if ranges.iter().any(is_within) {
                    found.push(key.as_str());
                }
            }
        }
        found
    }

    fn plan(
        &self,
        filter: &str,
        sort: &str,
        wanted: Option<u64>,
        mut statistics: Counts<'_>,
    ) -> Result<String, Box<dyn Error>> {
        let limits = Limits::default();
        let filter = Filter::parse(filter.as_bytes(), &self.thing.layout, &limits)?;
        let sort = filter.order(Sort::parse(sort.as_bytes(), &self.thing.layout, &limits)?);
        let plan = match plan(&filter, &sort, wanted, &self.indexes, &mut statistics) {
            Ok(plan) => plan,
            Err(error) => return Ok(format!("{error:?}\n")),
        };
        let mut out = String::new();
        let mut found: BTreeSet<&str> = BTreeSet::new();
        match &plan.access {
            Access::Scan => {
                out.push_str("scan\n");
                found.extend(self.documents.keys().map(String::as_str));
            }
            Access::Keys(keys) => {
                writeln!(out, "keys {keys:?}")?;
                found.extend(keys.iter().map(String::as_str));
            }
            Access::Index(access) => self.show(access, &mut out, &mut found)?,
            Access::Union(accesses) => {
                out.push_str("union\n");
                for access in accesses {
                    self.show(access, &mut out, &mut found)?;
                }
            }
        }
        writeln!(
            out,
            "estimated {}{}",
            plan.estimated,
            if plan.is_exact { ", exact" } else { "" }
        )?;
        for refused in &plan.refused {
            let what = refused
                .index
                .map_or("other".to_owned(), |id| format!("index {id}"));
            writeln!(out, "not {what}, {}: {}", refused.estimated, refused.reason)?;
        }
        for (key, fields) in &self.documents {
            let is_match = filter.matches(&subject(&id::object_id("Thing", key), fields));
            let is_found = found.contains(key.as_str());
            assert!(is_found || !is_match, "{key} is missing");
            assert!(
                is_match || !is_found || !plan.is_exact,
                "{key} does not match"
            );
        }
        Ok(out)
    }

    fn show<'s>(
        &'s self,
        access: &IndexAccess,
        out: &mut String,
        found: &mut BTreeSet<&'s str>,
    ) -> Result<(), Box<dyn Error>> {
        let index = self.index(&access.id.to_string());
        write!(out, "index {}", access.id)?;
        if access.is_multiple {
            out.push_str(", documents more than once");
        }
        if let Some(order) = access.order {
            let direction = if order.backward {
                "backward"
            } else {
                "forward"
            };
            write!(out, ", ordered {direction} by {}", order.components)?;
            if order.by_id {
                out.push_str(" and id");
            }
        }
        out.push('\n');
        const SHOWN: usize = 6;
        for range in access.ranges.iter().take(SHOWN) {
            writeln!(out, "  {}", index.describe(range))?;
        }
        if access.ranges.len() > SHOWN {
            writeln!(out, "  and {} more", access.ranges.len() - SHOWN)?;
        }
        found.extend(self.found(access.id, &access.ranges));
        Ok(())
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

fn hex(values: &[Vec<u8>]) -> String {
    if values.is_empty() {
        return "none\n".to_owned();
    }
    let mut out = String::new();
    for value in values {
        value
            .iter()
            .for_each(|byte| write!(out, "{byte:02x}").unwrap());
        out.push('\n');
    }
    out
}
