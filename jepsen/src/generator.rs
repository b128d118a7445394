//! Which operation comes next: drawn from a seed, so that a run's plan can be repeated.

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::history::{Action, Outcome};

/// Distance between the values of two workers: values are unique without talking.
const VALUES_PER_WORKER: u64 = 1 << 32;

/// Draws the operations of one worker.
pub struct Generator {
    random: StdRng,
    keys: Vec<Known>,
    next_value: u64,
}

/// A register, and the version that the worker last heard of.
struct Known {
    key: String,
    version: Option<u64>,
}

impl Generator {
    /// The generator of worker `worker` over `keys` registers.
    pub fn new(seed: u64, worker: u64, keys: u64) -> Generator {
        let keys = (0..keys)
            .map(|number| Known {
                key: register(number),
                version: None,
            })
            .collect();
        // Workers of one seed differ, and neighbouring seeds share no worker.
        let random = StdRng::seed_from_u64(
            seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .wrapping_add(worker),
        );
        Generator {
            random,
            keys,
            next_value: worker * VALUES_PER_WORKER + 1,
        }
    }

    /// The next operation.
    pub fn next_action(&mut self) -> Action {
        let known = &self.keys[self.random.random_range(0..self.keys.len())];
        let key = known.key.clone();
        let action = match (self.random.random_range(0..100), known.version) {
            (0..45, _) => Action::Read { key },
            (45..75, Some(version)) => Action::Write {
                key,
                value: self.next_value,
                expected: Some(version),
            },
            (75..82, Some(expected)) => Action::Delete { key, expected },
            _ => Action::Write {
                key,
                value: self.next_value,
                expected: None,
            },
        };
        self.next_value += u64::from(matches!(action, Action::Write { .. }));
        action
    }

    /// Learns the version that an operation found or made, for later conditions.
    pub fn learn(&mut self, action: &Action, outcome: &Outcome) {
        let Outcome::Ok { stored } = outcome else {
            return;
        };
        if let Some(known) = self.keys.iter_mut().find(|known| known.key == action.key()) {
            known.version = stored.and_then(|stored| stored.value.map(|_| stored.version));
        }
    }
}

/// The name of a register.
pub fn register(number: u64) -> String {
    format!("register-{number}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::history::Stored;

    fn plan(seed: u64, worker: u64) -> Vec<Action> {
        let mut generator = Generator::new(seed, worker, 5);
        (0..200)
            .map(|version| {
                let action = generator.next_action();
                let stored = Some(Stored {
                    value: Some(1),
                    version,
                });
                generator.learn(&action, &Outcome::Ok { stored });
                action
            })
            .collect()
    }

    #[test]
    fn a_seed_is_a_plan() {
        assert_eq!(plan(1, 0), plan(1, 0));
        assert_ne!(plan(1, 0), plan(2, 0));
        assert_ne!(plan(1, 0), plan(1, 1));
    }

    #[test]
    fn values_are_unique_over_workers() {
        let actions: Vec<Action> = (0..3).flat_map(|worker| plan(9, worker)).collect();
        let values: Vec<u64> = actions
            .iter()
            .filter_map(|action| match action {
                Action::Write { value, .. } => Some(*value),
                Action::Read { .. } | Action::Delete { .. } => None,
            })
            .collect();
        assert!(values.len() > 100);
        assert_eq!(values.iter().collect::<BTreeSet<_>>().len(), values.len());
    }

    #[test]
    fn every_kind_of_operation_occurs() {
        let actions = plan(3, 0);
        let count = |is: fn(&Action) -> bool| actions.iter().filter(|action| is(action)).count();
        assert!(count(|action| matches!(action, Action::Read { .. })) > 40);
        assert!(count(|action| matches!(action, Action::Write { expected: None, .. })) > 10);
        assert!(
            count(|action| matches!(
                action,
                Action::Write {
                    expected: Some(_),
                    ..
                }
            )) > 10
        );
        assert!(count(|action| matches!(action, Action::Delete { .. })) > 2);
    }
}
