//! What applying costs.

use std::sync::Arc;
use std::time::Instant;

use proto::ShardId;

use super::harness::{entry, idempotency, mutation, principal, put, set_bucket, write};
use crate::engine::rocks::{DataOptions, Rocks};
use crate::ids::StoreId;
use crate::machine::documents::DocumentMachine;
use crate::machine::{Entry, Replica};
use crate::tables::documents;

const PUTS: usize = 64_000;

/// Prints microseconds for each put of 1 KiB into RocksDB, by batch size, and for each read:
/// `cargo nextest run -p storage --run-ignored all --no-capture cost_of_a_put`.
#[test]
#[ignore = "a measurement, not a test"]
fn cost_of_a_put() {
    let dir = tempfile::tempdir().expect("a folder");
    let engine = Arc::new(Rocks::open(dir.path(), &DataOptions::default()).expect("opens"));
    let replica =
        Replica::open(engine, Arc::new(DocumentMachine), ShardId(1), StoreId(1)).expect("opens");
    replica
        .apply(vec![entry(1, &set_bucket())])
        .expect("applies");
    let mut index = 1;
    for (batch, with_key) in [(1, false), (16, false), (64, false), (64, true)] {
        let entries: Vec<Entry> = (0..PUTS)
            .map(|at| entry(index + 1 + at as u64, &a_put(at, with_key)))
            .collect();
        index += PUTS as u64;
        let mut batches = Vec::new();
        let mut rest = entries.into_iter();
        while rest.len() > 0 {
            batches.push(rest.by_ref().take(batch).collect::<Vec<_>>());
        }
        let start = Instant::now();
        for batch in batches {
            replica.apply(batch).expect("applies");
        }
        let us = start.elapsed().as_secs_f64() * 1e6 / PUTS as f64;
        println!("batch of {batch}, idempotency key {with_key}: {us:.2} us a put");
    }
    for indexes in [0, 1, 4] {
        let definitions = ["text", "n", "version", "updatedAt"]
            .map(|field| super::harness::index(&format!("{{\"keys\":[{{\"{field}\":\"asc\"}}]}}")));
        let listed: Vec<_> = (1..).zip(&definitions).take(indexes).collect();
        let version = indexes as u64 + 2;
        index += 1;
        let told = entry(index, &super::harness::set_indexes(version, &listed));
        replica.apply(vec![told]).expect("applies");
        // The first round puts the documents in, the second changes them.
        for round in ["taken in", "changed"] {
            let entries: Vec<Entry> = (0..PUTS)
                .map(|at| entry(index + 1 + at as u64, &an_indexed_put(at, index, version)))
                .collect();
            index += PUTS as u64;
            let mut rest = entries.into_iter();
            let start = Instant::now();
            while rest.len() > 0 {
                replica
                    .apply(rest.by_ref().take(64).collect())
                    .expect("applies");
            }
            let us = start.elapsed().as_secs_f64() * 1e6 / PUTS as f64;
            println!("batch of 64, {indexes} indexes, {round}: {us:.2} us a put");
        }
    }
    let start = Instant::now();
    for at in 0..PUTS {
        let key = key(at);
        documents::get_cached(&replica, 1, 7, &key).expect("reads");
    }
    let us = start.elapsed().as_secs_f64() * 1e6 / PUTS as f64;
    println!("cached read: {us:.2} us");
}

/// A put under a version of the bucket, of another number each time.
fn an_indexed_put(at: usize, index: u64, version: u64) -> proto::log::Command {
    let n = at as u64 + index;
    let fields = format!("\"n\":{n},\"text\":\"{n} {}\"", "x".repeat(880));
    let mut mutation = mutation(&key(at), None, put(&fields, ""));
    mutation.bucket_version = version;
    write(
        at as u64,
        principal("/db/User/10", &["/db/Role/3"]),
        None,
        mutation,
    )
}

fn key(at: usize) -> String {
    format!("3f2504e0-4f89-41d3-9a0c-{:012x}", at * 7919 % 20_011)
}

fn a_put(at: usize, with_key: bool) -> proto::log::Command {
    let fields = format!("\"text\":\"{}\"", "x".repeat(900));
    let request = with_key.then(|| idempotency(&format!("key {at}"), "request"));
    write(
        at as u64,
        principal("/db/User/10", &["/db/Role/3"]),
        request,
        mutation(&key(at), None, put(&fields, "")),
    )
}
