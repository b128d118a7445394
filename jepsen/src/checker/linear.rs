//! Is there an order of the operations that explains every answer, and that keeps operations in place which were over
//! before others began? The search of Wing and Gong with Lowe's memo, as Porcupine does it.
//!
//! Operations of unknown outcome may be placed anywhere after their invocation, or left out. A model may number its
//! states ([`Model::rank`]); an operation that needs a state no later than some number ([`Model::latest`]) then cuts off
//! every branch that has gone past it. Without that, k unknown writes would cost 2^k.
//!
//! Sources: Wing & Gong 1993; Lowe 2017, "Testing for linearizability"; the layout of entries is Porcupine's.

use std::collections::{BTreeMap, HashSet};
use std::hash::Hash;

/// What an object does, one operation after the other.
pub trait Model {
    /// What it remembers.
    type State: Clone + Eq + Hash;
    /// An operation together with its answer, as far as that is known.
    type Input;

    /// Before all operations.
    fn initial(&self) -> Self::State;

    /// The state after `input`, if that may happen in `state` with that answer.
    fn step(&self, state: &Self::State, input: &Self::Input) -> Option<Self::State>;

    /// The number of a state; never falls from step to step.
    fn rank(&self, state: &Self::State) -> u64;

    /// The highest rank in which `input` may happen; `None`: in any.
    fn latest(&self, input: &Self::Input) -> Option<u64>;
}

/// An operation in time.
#[derive(Clone, Debug)]
pub struct Timed<I> {
    /// When it began.
    pub from: usize,
    /// When it was over; `None`: it may still happen, or never.
    pub to: Option<usize>,
    /// What it was.
    pub input: I,
}

/// What the search says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// There is such an order.
    Linearizable,
    /// There is none.
    NotLinearizable,
    /// It was not found out within the bound.
    Undecided,
}

/// Searches, with at most `steps_max` tried steps.
pub fn check<M: Model>(model: &M, operations: &[Timed<M::Input>], steps_max: usize) -> Answer {
    Search::new(model, operations).run(steps_max)
}

/// One end of an operation.
#[derive(Clone, Copy)]
enum Entry {
    Call(usize),
    Return,
}

/// Entries in the order of time as a linked list, from which placed operations are taken out.
struct Entries {
    entries: Vec<Entry>,
    next: Vec<usize>,
    before: Vec<usize>,
    call: Vec<usize>,
    end: Vec<Option<usize>>,
}

/// The place before the first entry.
const HEAD: usize = 0;

impl Entries {
    fn new<I>(operations: &[Timed<I>]) -> Entries {
        let mut ends: Vec<(usize, usize, Entry)> = Vec::new();
        for (at, operation) in operations.iter().enumerate() {
            ends.push((operation.from, at, Entry::Call(at)));
            ends.extend(operation.to.map(|to| (to, at, Entry::Return)));
        }
        ends.sort_by_key(|(time, ..)| *time);
        let count = ends.len() + 1;
        let mut list = Entries {
            entries: vec![Entry::Return],
            next: (1..=count).collect(),
            before: (0..count).map(|at: usize| at.saturating_sub(1)).collect(),
            call: vec![0; operations.len()],
            end: vec![None; operations.len()],
        };
        for (place, (_, at, entry)) in (1..).zip(ends) {
            list.entries.push(entry);
            match entry {
                Entry::Call(_) => list.call[at] = place,
                Entry::Return => list.end[at] = Some(place),
            }
        }
        list
    }

    /// The entry after `place`, with its own place.
    fn after(&self, place: usize) -> Option<(usize, Entry)> {
        let next = self.next[place];
        self.entries.get(next).map(|entry| (next, *entry))
    }

    fn lift(&mut self, operation: usize) {
        for place in std::iter::once(self.call[operation]).chain(self.end[operation]) {
            let (before, next) = (self.before[place], self.next[place]);
            self.next[before] = next;
            if let Some(back) = self.before.get_mut(next) {
                *back = before;
            }
        }
    }

    /// The reverse of [`Entries::lift`], in the reverse order.
    fn unlift(&mut self, operation: usize) {
        for place in self.end[operation]
            .into_iter()
            .chain(std::iter::once(self.call[operation]))
        {
            let (before, next) = (self.before[place], self.next[place]);
            self.next[before] = place;
            if let Some(back) = self.before.get_mut(next) {
                *back = place;
            }
        }
    }
}

struct Search<'a, M: Model> {
    model: &'a M,
    operations: &'a [Timed<M::Input>],
    entries: Entries,
    /// Which operations are placed.
    placed: Vec<u64>,
    /// Ended operations that are not placed yet.
    missing: usize,
    /// The ranks that unplaced ended operations may not miss, with how many there are of each.
    latest: BTreeMap<u64, usize>,
    seen: HashSet<(Vec<u64>, M::State)>,
}

impl<'a, M: Model> Search<'a, M> {
    fn new(model: &'a M, operations: &'a [Timed<M::Input>]) -> Search<'a, M> {
        let ended = || operations.iter().filter(|operation| operation.to.is_some());
        let mut latest = BTreeMap::new();
        for rank in ended().filter_map(|operation| model.latest(&operation.input)) {
            *latest.entry(rank).or_default() += 1;
        }
        Search {
            model,
            operations,
            entries: Entries::new(operations),
            placed: vec![0; operations.len().div_ceil(64)],
            missing: ended().count(),
            latest,
            seen: HashSet::new(),
        }
    }

    fn run(mut self, steps_max: usize) -> Answer {
        let mut state = self.model.initial();
        let mut path: Vec<(usize, M::State)> = Vec::new();
        let mut place = HEAD;
        for _ in 0..steps_max {
            if self.missing == 0 {
                return Answer::Linearizable;
            }
            let candidate = match self.entries.after(place) {
                Some((next, Entry::Call(operation))) => Some((next, operation)),
                // Something was over here that is not placed yet: a placement before was wrong.
                Some((_, Entry::Return)) | None => None,
            };
            let Some((next, operation)) = candidate else {
                let Some((undone, before)) = path.pop() else {
                    return Answer::NotLinearizable;
                };
                self.unplace(undone);
                state = before;
                place = self.entries.call[undone];
                continue;
            };
            match self.model.step(&state, &self.operations[operation].input) {
                Some(after) if self.place(operation, &after) => {
                    path.push((operation, std::mem::replace(&mut state, after)));
                    place = HEAD;
                }
                Some(_) | None => place = next,
            }
        }
        Answer::Undecided
    }

    /// Places an operation, unless that leads where the search has been, or past what is still missing.
    fn place(&mut self, operation: usize, after: &M::State) -> bool {
        self.count(operation, Change::Placed);
        self.flip(operation);
        let earliest = self.latest.first_key_value().map(|(rank, _)| *rank);
        let in_time = earliest.is_none_or(|earliest| self.model.rank(after) <= earliest);
        if in_time && self.seen.insert((self.placed.clone(), after.clone())) {
            self.entries.lift(operation);
            return true;
        }
        self.flip(operation);
        self.count(operation, Change::TakenBack);
        false
    }

    fn unplace(&mut self, operation: usize) {
        self.entries.unlift(operation);
        self.flip(operation);
        self.count(operation, Change::TakenBack);
    }

    fn flip(&mut self, operation: usize) {
        self.placed[operation / 64] ^= 1 << (operation % 64);
    }

    fn count(&mut self, operation: usize, change: Change) {
        let operation = &self.operations[operation];
        if operation.to.is_none() {
            return;
        }
        let rank = self.model.latest(&operation.input);
        match change {
            Change::Placed => {
                self.missing -= 1;
                if let Some(rank) = rank
                    && let Some(count) = self.latest.get_mut(&rank)
                {
                    *count -= 1;
                    if *count == 0 {
                        self.latest.remove(&rank);
                    }
                }
            }
            Change::TakenBack => {
                self.missing += 1;
                if let Some(rank) = rank {
                    *self.latest.entry(rank).or_default() += 1;
                }
            }
        }
    }
}

enum Change {
    Placed,
    TakenBack,
}
