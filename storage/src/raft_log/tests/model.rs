//! Random calls on two logs and on two plain vectors: both always agree, after a crash too.

use proptest::prelude::*;

use super::{SMALL, append, crash, entry, id, settle};
use crate::ids::{LogId, StoreId};
use crate::raft_log::{GroupLog, LogEntry, Logs};

#[derive(Clone, Debug)]
enum Step {
    Append {
        count: u64,
        length: usize,
        next_term: bool,
        wait: bool,
    },
    Truncate {
        keep: u64,
    },
    Purge {
        upto: u64,
    },
    Read {
        from: u64,
        count: u64,
        bytes_max: usize,
    },
    Commit {
        index: u64,
    },
    Reopen,
    Crash,
}

fn steps() -> impl Strategy<Value = Vec<(u64, Step)>> {
    let step = prop_oneof![
        6 => (0..6_u64, 0..120_usize, any::<bool>(), any::<bool>())
            .prop_map(|(count, length, next_term, wait)| Step::Append { count, length, next_term, wait }),
        2 => (0..40_u64).prop_map(|keep| Step::Truncate { keep }),
        2 => (0..45_u64).prop_map(|upto| Step::Purge { upto }),
        4 => (0..50_u64, 0..50_u64, 0..600_usize).prop_map(|(from, count, bytes_max)| Step::Read { from, count, bytes_max }),
        2 => (0..50_u64).prop_map(|index| Step::Commit { index }),
        1 => Just(Step::Reopen),
        1 => Just(Step::Crash),
    ];
    prop::collection::vec((1..=2_u64, step), 1..40)
}

/// One log, as plainly as it can be said.
#[derive(Default)]
struct Model {
    purged: Option<LogId>,
    committed: Option<LogId>,
    entries: Vec<LogEntry>,
    term: u64,
}

impl Model {
    fn last(&self) -> Option<LogId> {
        self.entries.last().map(|entry| entry.id).or(self.purged)
    }

    fn next(&self) -> u64 {
        self.last().map_or(0, |last| last.index + 1)
    }

    fn read(&self, from: u64, to: u64, bytes_max: usize) -> Vec<LogEntry> {
        let mut bytes = 0;
        let wanted = self
            .entries
            .iter()
            .filter(|entry| (from..to).contains(&entry.id.index));
        let fits = wanted.enumerate().take_while(|(position, entry)| {
            bytes += entry.bytes.len();
            bytes <= bytes_max || *position == 0
        });
        fits.map(|(_, entry)| entry.clone()).collect()
    }
}

fn check(model: &Model, log: &GroupLog) {
    let state = log.state();
    assert_eq!(
        (state.purged, state.last, state.committed),
        (model.purged, model.last(), model.committed)
    );
    assert_eq!(log.read(0, u64::MAX, usize::MAX).unwrap(), model.entries);
    for index in 0..model.next() + 2 {
        let expected = model
            .entries
            .iter()
            .map(|entry| entry.id)
            .chain(model.purged)
            .find(|id| id.index == index);
        assert_eq!(log.id_at(index).unwrap(), expected, "id at {index}");
    }
}

fn run(model: &mut Model, log: &GroupLog, step: &Step) {
    match *step {
        Step::Append {
            count,
            length,
            next_term,
            wait,
        } => {
            model.term += u64::from(next_term);
            let entries = (model.next()..model.next() + count)
                .map(|index| entry(model.term, index, length))
                .collect::<Vec<_>>();
            model.entries.extend(entries.clone());
            if wait {
                append(log, entries);
            } else {
                log.append(entries, Box::new(|result| result.unwrap()))
                    .unwrap();
            }
        }
        Step::Truncate { keep } => {
            // Nothing committed is ever truncated.
            let keep = model
                .committed
                .map_or(keep, |committed| keep.max(committed.index));
            let last = model
                .entries
                .iter()
                .map(|entry| entry.id)
                .chain(model.purged)
                .find(|id| id.index == keep);
            if last.is_none() && model.committed.is_some() {
                return;
            }
            log.truncate_after(last).unwrap();
            model
                .entries
                .retain(|entry| last.is_some_and(|last| entry.id.index <= last.index));
        }
        Step::Purge { upto } => {
            let upto = model
                .entries
                .iter()
                .map(|entry| entry.id)
                .find(|id| id.index == upto)
                .unwrap_or(id(model.term, upto));
            log.purge(upto).unwrap();
            if model.purged.is_none_or(|purged| purged.index < upto.index) {
                model.purged = Some(upto);
                model.entries.retain(|entry| entry.id.index > upto.index);
            }
        }
        Step::Read {
            from,
            count,
            bytes_max,
        } => {
            assert_eq!(
                log.read(from, from + count, bytes_max).unwrap(),
                model.read(from, from + count, bytes_max)
            );
        }
        Step::Commit { index } => {
            let committed = model
                .entries
                .iter()
                .map(|entry| entry.id)
                .find(|id| id.index == index);
            if committed > model.committed {
                log.save_committed(committed);
                model.committed = committed;
            }
        }
        Step::Reopen | Step::Crash => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48,
        ..ProptestConfig::default() })]

    #[test]
    fn log_agrees_with_a_vector(steps in steps()) {
        let mut dir = tempfile::tempdir().unwrap();
        let mut logs = Logs::open(dir.path(), &SMALL).unwrap();
        let mut models = [Model::default(), Model::default()];
        for (store, step) in &steps {
            match step {
                Step::Reopen => {
                    drop(logs);
                    logs = Logs::open(dir.path(), &SMALL).unwrap();
                }
                Step::Crash => {
                    settle(&logs.group(StoreId(*store)).unwrap());
                    let after = crash(dir.path());
                    drop(logs);
                    logs = Logs::open(after.path(), &SMALL).unwrap();
                    dir = after;
                }
                step => run(&mut models[*store as usize - 1], &logs.group(StoreId(*store)).unwrap(), step),
            }
            for store in 1..=2_u64 {
                check(&models[store as usize - 1], &logs.group(StoreId(store)).unwrap());
            }
        }
    }
}
