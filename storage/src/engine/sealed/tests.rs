//! Below seals everything is as without: whatever is written, whichever keys come and go.

use proptest::prelude::*;

use super::*;
use crate::engine::memory::Memory;

#[derive(Clone, Debug)]
enum Step {
    Put(u8, Vec<u8>),
    Delete(u8),
    DeleteRange(u8, u8),
    Flush,
    Crash,
    Rotate,
    Rewrite(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let value = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        (any::<u8>(), 1..400_usize).prop_map(|(byte, count)| vec![byte; count]),
    ];
    prop_oneof![
        8 => (any::<u8>(), value).prop_map(|(key, value)| Step::Put(key, value)),
        2 => any::<u8>().prop_map(Step::Delete),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(from, to)| Step::DeleteRange(from, to)),
        1 => Just(Step::Flush),
        1 => Just(Step::Crash),
        1 => Just(Step::Rotate),
        1 => (1..2_000_usize).prop_map(Step::Rewrite),
    ]
}

/// Keys of two stores, and of rows with and without a database.
fn key(number: u8) -> Bytes {
    let store = StoreId(u64::from(number % 2) + 1);
    let kind = [0x01, 0x02, 0x10, 0x20][usize::from(number / 2 % 4)];
    let database = [0, 0, 0, number % 3];
    [&store.prefix()[..], &[kind], &database, &[number]]
        .concat()
        .into()
}

const COLUMN: Column = Column::Documents;

fn everything(engine: &dyn Engine) -> Vec<(Bytes, Bytes)> {
    let view = engine.view();
    let all = (Bound::Unbounded, Bound::Unbounded);
    let found: Vec<_> = view
        .scan(COLUMN, all.0, all.1)
        .map(Result::unwrap)
        .collect();
    let mut back: Vec<_> = view
        .scan_rev(COLUMN, all.0, all.1)
        .map(Result::unwrap)
        .collect();
    back.reverse();
    assert_eq!(found, back);
    let mut visited = Vec::new();
    let each = &mut |key: &[u8], value: &[u8]| {
        visited.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
        Ok(ControlFlow::Continue(()))
    };
    view.visit(COLUMN, all.0, all.1, Direction::Forward, each)
        .unwrap();
    assert_eq!(found, visited);
    for (key, value) in &found {
        assert_eq!(engine.get(COLUMN, key).unwrap().as_ref(), Some(value));
        assert_eq!(view.get(COLUMN, key).unwrap().as_ref(), Some(value));
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn seals_change_nothing_that_is_read(steps in prop::collection::vec(step(), 1..60), converted: bool) {
        let ring = Ring::in_memory(converted);
        let (plain, sealed) = (Memory::new(), Sealed::new(Memory::new(), Arc::clone(&ring)));
        if converted {
            // What was there before the first key.
            let mut batch = Batch::new();
            batch.put(COLUMN, key(3), "from before");
            sealed.inner().write(batch.clone()).unwrap();
            plain.write(batch).unwrap();
        }
        for step in steps {
            let mut batch = Batch::new();
            match step {
                Step::Put(at, value) => batch.put(COLUMN, key(at), value),
                Step::Delete(at) => batch.delete(COLUMN, key(at)),
                Step::DeleteRange(from, to) => batch.delete_range(COLUMN, key(from), key(to)),
                Step::Flush => {
                    plain.flush().unwrap();
                    sealed.flush().unwrap();
                }
                Step::Crash => {
                    plain.crash();
                    sealed.inner().crash();
                }
                Step::Rotate => drop(ring.rotate(None).unwrap()),
                Step::Rewrite(bytes) => drop(sealed.rewrite(COLUMN, &[], bytes).unwrap()),
            }
            plain.write(batch.clone()).unwrap();
            sealed.write(batch).unwrap();
        }
        let found = everything(&sealed);
        prop_assert_eq!(&found, &everything(&plain));
        for (key, value) in &found {
            let at = sealed.get_persisted(COLUMN, key).unwrap();
            prop_assert_eq!(at, plain.get_persisted(COLUMN, key).unwrap());
            let below = sealed.inner().get(COLUMN, key).unwrap().unwrap();
            prop_assert!(converted || below != value);
        }
        // And after all is brought to the current keys, nothing is left that is not sealed.
        let mut from = Some(Bytes::new());
        while let Some(at) = from {
            from = sealed.rewrite(COLUMN, &at, 100).unwrap().next;
        }
        prop_assert_eq!(found, everything(&sealed));
        let state = ring.state();
        for (key, stored) in everything(sealed.inner()) {
            let scope = Scope::of(bound(&key).unwrap());
            prop_assert!(!state.is_outdated(scope, &stored));
        }
    }
}
