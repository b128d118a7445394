//! The contract of the engine, run on each of them.

use std::ops::{Bound, ControlFlow};
use std::path::Path;

use bytes::Bytes;

use super::memory::Memory;
use super::rocks::{DataOptions, Rocks};
use super::sealed::Sealed;
use super::{Batch, Cached, Column, Direction, Engine, Pairs, Scrubbed, View};
use crate::error::Error;
use crate::ids::StoreId;
use crate::seal::Ring;

const ONE: StoreId = StoreId(1);
const TWO: StoreId = StoreId(2);
const NINE: StoreId = StoreId(9);

fn key(store: StoreId, name: &str) -> Bytes {
    [&store.prefix()[..], name.as_bytes()].concat().into()
}

fn put(engine: &dyn Engine, column: Column, store: StoreId, names: &[&str]) {
    let mut batch = Batch::new();
    for name in names {
        batch.put(column, key(store, name), name.as_bytes().to_vec());
    }
    engine.write(batch).unwrap();
}

/// Names of the keys in a range of a store, in the order of the walk.
fn names(view: &dyn View, column: Column, store: StoreId, reverse: bool) -> Vec<String> {
    let (from, to) = (store.prefix(), store.end());
    let range = (Bound::Included(&from[..]), Bound::Excluded(&to[..]));
    let pairs = if reverse {
        view.scan_rev(column, range.0, range.1)
    } else {
        view.scan(column, range.0, range.1)
    };
    pairs
        .map(|pair| String::from_utf8(pair.unwrap().0[StoreId::LEN..].to_vec()).unwrap())
        .collect()
}

/// What store one holds.
fn stored(view: &dyn View, column: Column) -> Pairs<'_> {
    let (from, to) = (ONE.prefix(), ONE.end());
    view.scan(column, Bound::Included(&from), Bound::Excluded(&to))
}

/// Runs a check on both engines, plain and below seals, each fresh, with a folder for files.
fn on_all(check: impl Fn(&dyn Engine, &Path)) {
    let on = |make: &dyn Fn(&Path) -> Box<dyn Engine>| {
        let dir = tempfile::tempdir().unwrap();
        check(&*make(&dir.path().join("data")), dir.path());
    };
    let rocks = |dir: &Path| Rocks::open(dir, &DataOptions::default()).unwrap();
    on(&|dir| Box::new(rocks(dir)));
    on(&|_| Box::new(Memory::new()));
    on(&|dir| Box::new(Sealed::new(rocks(dir), Ring::in_memory(false))));
    on(&|_| Box::new(Sealed::new(Memory::new(), Ring::in_memory(false))));
}

#[test]
fn a_batch_is_visible_in_all_columns_and_later_writes_win() {
    on_all(|engine, _| {
        let mut batch = Batch::new();
        batch.put(Column::State, key(ONE, "a"), "old");
        batch.put(Column::State, key(ONE, "a"), "new");
        batch.put(Column::Documents, key(ONE, "a"), "document");
        batch.put(Column::Changes, key(ONE, "a"), "change");
        batch.delete(Column::Changes, key(ONE, "a"));
        assert_eq!(batch.len(), 5);
        engine.write(batch).unwrap();
        assert_eq!(
            engine.get(Column::State, &key(ONE, "a")).unwrap(),
            Some("new".into())
        );
        assert_eq!(
            engine
                .get_cached(Column::Documents, &key(ONE, "a"))
                .unwrap(),
            Cached::Found("document".into())
        );
        assert_eq!(engine.get(Column::Changes, &key(ONE, "a")).unwrap(), None);
        assert_eq!(
            engine.get_cached(Column::Changes, &key(ONE, "b")).unwrap(),
            Cached::Absent
        );
        assert!(engine.stats().memtable_bytes > 0);
    });
}

#[test]
fn only_flushed_writes_are_persisted() {
    on_all(|engine, _| {
        put(engine, Column::State, ONE, &["a"]);
        put(engine, Column::Documents, ONE, &["a"]);
        assert_eq!(
            engine.get_persisted(Column::State, &key(ONE, "a")).unwrap(),
            None
        );
        engine.flush().unwrap();
        put(engine, Column::State, ONE, &["b"]);
        let mut batch = Batch::new();
        batch.put(Column::State, key(ONE, "a"), "changed");
        engine.write(batch).unwrap();
        assert_eq!(
            engine.get_persisted(Column::State, &key(ONE, "a")).unwrap(),
            Some("a".into())
        );
        assert_eq!(
            engine
                .get_persisted(Column::Documents, &key(ONE, "a"))
                .unwrap(),
            Some("a".into())
        );
        assert_eq!(
            engine.get_persisted(Column::State, &key(ONE, "b")).unwrap(),
            None
        );
        assert_eq!(
            engine.get(Column::State, &key(ONE, "a")).unwrap(),
            Some("changed".into())
        );
    });
}

#[test]
fn a_range_is_deleted_without_its_end() {
    on_all(|engine, _| {
        put(engine, Column::Documents, ONE, &["a", "b", "c", "d"]);
        put(engine, Column::Documents, TWO, &["a"]);
        let mut batch = Batch::new();
        batch.delete_range(Column::Documents, key(ONE, "b"), key(ONE, "d"));
        batch.delete_range(Column::Documents, key(ONE, "z"), key(ONE, "a"));
        engine.write(batch).unwrap();
        assert_eq!(
            names(&*engine.view(), Column::Documents, ONE, false),
            ["a", "d"]
        );
        let mut batch = Batch::new();
        batch.delete_range(Column::Documents, ONE.prefix().to_vec(), ONE.end().to_vec());
        engine.write(batch).unwrap();
        assert_eq!(
            names(&*engine.view(), Column::Documents, ONE, false),
            [""; 0]
        );
        assert_eq!(names(&*engine.view(), Column::Documents, TWO, false), ["a"]);
    });
}

#[test]
fn a_view_never_changes() {
    on_all(|engine, _| {
        put(engine, Column::Documents, ONE, &["a", "b"]);
        let view = engine.view();
        let mut batch = Batch::new();
        batch.delete(Column::Documents, key(ONE, "a"));
        batch.put(Column::Documents, key(ONE, "b"), "changed");
        batch.put(Column::Documents, key(ONE, "c"), "new");
        engine.write(batch).unwrap();
        engine.flush().unwrap();
        assert_eq!(names(&*view, Column::Documents, ONE, false), ["a", "b"]);
        assert_eq!(
            view.get(Column::Documents, &key(ONE, "b")).unwrap(),
            Some("b".into())
        );
        assert_eq!(view.get(Column::Documents, &key(ONE, "c")).unwrap(), None);
        assert_eq!(
            names(&*engine.view(), Column::Documents, ONE, false),
            ["b", "c"]
        );
    });
}

#[test]
fn scans_keep_to_their_bounds_in_both_directions() {
    on_all(|engine, _| {
        put(engine, Column::Documents, ONE, &["a", "aa", "b", "c"]);
        put(engine, Column::Documents, TWO, &["a"]);
        engine.flush().unwrap();
        put(engine, Column::Documents, ONE, &["ab"]);
        let view = engine.view();
        assert_eq!(
            names(&*view, Column::Documents, ONE, false),
            ["a", "aa", "ab", "b", "c"]
        );
        assert_eq!(
            names(&*view, Column::Documents, ONE, true),
            ["c", "b", "ab", "aa", "a"]
        );
        let (a, b, c) = (key(ONE, "a"), key(ONE, "b"), key(ONE, "c"));
        let count = |from, to| {
            let (ahead, back) = (
                view.scan(Column::Documents, from, to).count(),
                view.scan_rev(Column::Documents, from, to).count(),
            );
            assert_eq!(ahead, back);
            for direction in [Direction::Forward, Direction::Backward] {
                let mut visited = 0;
                let each = &mut |_: &[u8], _: &[u8]| {
                    visited += 1;
                    Ok(ControlFlow::Continue(()))
                };
                view.visit(Column::Documents, from, to, direction, each)
                    .unwrap();
                assert_eq!(visited, ahead);
            }
            ahead
        };
        assert_eq!(count(Bound::Excluded(&a[..]), Bound::Included(&b[..])), 3);
        assert_eq!(count(Bound::Included(&a[..]), Bound::Excluded(&b[..])), 3);
        assert_eq!(count(Bound::Excluded(&b[..]), Bound::Excluded(&c[..])), 0);
        assert_eq!(count(Bound::Included(&c[..]), Bound::Excluded(&a[..])), 0);
        assert_eq!(count(Bound::Excluded(&a[..]), Bound::Excluded(&a[..])), 0);
        assert_eq!(count(Bound::Unbounded, Bound::Unbounded), 6);
    });
}

#[test]
fn a_visit_shows_pairs_in_order_until_it_is_told_to_stop() {
    on_all(|engine, _| {
        put(engine, Column::Documents, ONE, &["b", "a", "c"]);
        let view = engine.view();
        let all = Bound::Unbounded;
        for (direction, expected) in [
            (Direction::Forward, [b"a", b"b"]),
            (Direction::Backward, [b"c", b"b"]),
        ] {
            let mut seen = Vec::new();
            let each = &mut |key: &[u8], value: &[u8]| {
                assert_eq!(&key[StoreId::LEN..], value);
                seen.push(value.to_vec());
                Ok(if value == b"b" {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                })
            };
            view.visit(Column::Documents, all, all, direction, each)
                .unwrap();
            assert_eq!(seen, expected);
            let fails = &mut |_: &[u8], _: &[u8]| Err(Error::corrupt("as told"));
            let failed = view.visit(Column::Documents, all, all, direction, fails);
            assert!(matches!(failed, Err(Error::Corrupt { .. })));
        }
    });
}

#[test]
fn files_carry_a_store_to_another_id_durably() {
    on_all(|engine, dir| {
        put(engine, Column::Documents, ONE, &["a", "b"]);
        put(engine, Column::Documents, TWO, &["other"]);
        let view = engine.view();
        put(engine, Column::Documents, ONE, &["late"]);
        let path = dir.join("1.sst");
        let info = engine
            .write_sst(
                stored(&*view, Column::Documents),
                Column::Documents,
                NINE,
                &path,
            )
            .unwrap()
            .unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(
            (info.bytes, info.checksum),
            (bytes.len() as u64, xxhash_rust::xxh3::xxh3_64(&bytes))
        );
        let none = dir.join("2.sst");
        assert_eq!(
            engine
                .write_sst(
                    stored(&*view, Column::Changes),
                    Column::Changes,
                    NINE,
                    &none
                )
                .unwrap(),
            None
        );
        assert!(!none.exists());
        engine.ingest(&[(Column::Documents, path)]).unwrap();
        assert_eq!(
            names(&*engine.view(), Column::Documents, NINE, false),
            ["a", "b"]
        );
        assert_eq!(
            engine
                .get_persisted(Column::Documents, &key(NINE, "a"))
                .unwrap(),
            Some("a".into())
        );
        assert_eq!(
            engine
                .get_persisted(Column::Documents, &key(ONE, "late"))
                .unwrap(),
            None
        );
    });
}

#[test]
fn memory_crashes_back_to_what_was_flushed() {
    let engine = Memory::new();
    put(&engine, Column::State, ONE, &["a"]);
    engine.flush().unwrap();
    put(&engine, Column::State, ONE, &["b"]);
    engine.crash();
    assert_eq!(names(&*engine.view(), Column::State, ONE, false), ["a"]);
}

#[test]
fn memory_refuses_a_file_that_was_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Memory::new();
    put(&engine, Column::State, ONE, &["a"]);
    let path = dir.path().join("0.sst");
    engine
        .write_sst(
            stored(&*engine.view(), Column::State),
            Column::State,
            NINE,
            &path,
        )
        .unwrap();
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    assert!(matches!(
        engine.ingest(&[(Column::State, path)]),
        Err(Error::Corrupt { .. })
    ));
}

#[test]
fn a_cold_value_needs_the_disk_once() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Rocks::open(dir.path(), &DataOptions::default()).unwrap();
    put(&engine, Column::Documents, ONE, &["a"]);
    engine.flush().unwrap();
    drop(engine);
    let engine = Rocks::open(dir.path(), &DataOptions::default()).unwrap();
    assert_eq!(
        engine
            .get_cached(Column::Documents, &key(ONE, "a"))
            .unwrap(),
        Cached::NeedsDisk
    );
    assert_eq!(
        engine.get(Column::Documents, &key(ONE, "a")).unwrap(),
        Some("a".into())
    );
    assert_eq!(
        engine
            .get_cached(Column::Documents, &key(ONE, "a"))
            .unwrap(),
        Cached::Found("a".into())
    );
    assert_eq!(engine.stats().background_errors, 0);
}

/// Nothing in memory counts, a range that is in files does, and more of it counts more.
#[test]
fn the_files_of_a_range_have_a_size() {
    on_all(|engine, _| {
        let (from, to) = (ONE.prefix(), ONE.end());
        let size = |from: &[u8], to: &[u8]| {
            let view = engine.view();
            view.file_bytes(Column::Documents, from, to).unwrap()
        };
        let names: Vec<String> = (0..4_000).map(|at| format!("{at:08}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        put(engine, Column::Documents, ONE, &names);
        assert_eq!(size(&from, &to), 0);
        assert_eq!(size(&to, &from), 0);
    });
    let dir = tempfile::tempdir().unwrap();
    let engine = Rocks::open(dir.path(), &DataOptions::default()).unwrap();
    let names: Vec<String> = (0..40_000).map(|at| format!("{at:08}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    put(&engine, Column::Documents, ONE, &names);
    engine.flush().unwrap();
    let size = |to: &[u8]| {
        let view = engine.view();
        view.file_bytes(Column::Documents, &ONE.prefix(), to)
            .unwrap()
    };
    let (half, all) = (size(&key(ONE, "00020000")), size(&ONE.end()));
    assert!(0 < half && half < all, "{half} of {all}");
}

#[test]
fn rocks_outlives_its_handle_while_a_view_is_out() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Rocks::open(dir.path(), &DataOptions::default()).unwrap();
    put(&engine, Column::Documents, ONE, &["a"]);
    let view = engine.view();
    drop(engine);
    assert_eq!(names(&*view, Column::Documents, ONE, false), ["a"]);
}

#[test]
fn a_scrub_reads_a_range_in_pieces_and_ends() {
    on_all(|engine, _| {
        put(engine, Column::Documents, ONE, &["a", "b", "c"]);
        engine.flush().unwrap();
        put(engine, Column::Documents, ONE, &["d"]);
        put(engine, Column::Documents, TWO, &["x"]);
        let (mut from, end) = (Bytes::copy_from_slice(&ONE.prefix()), ONE.end());
        let (mut pieces, mut bytes) = (0, 0);
        loop {
            let scrubbed = engine.scrub(Column::Documents, &from, &end, 12).unwrap();
            pieces += 1;
            bytes += scrubbed.bytes;
            match scrubbed.next {
                Some(next) => from = next,
                None => break,
            }
        }
        match engine.is_sealed() {
            // Two pairs of ten bytes are past the bound of twelve.
            false => assert_eq!((pieces, bytes), (2, 4 * (StoreId::LEN + 2))),
            // One is, with its seal.
            true => assert_eq!(pieces, 4),
        }
        assert_eq!(
            engine.scrub(Column::State, &from, &end, 12).unwrap(),
            Scrubbed::default()
        );
    });
}
