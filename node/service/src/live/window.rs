//! The result of a query, kept up to date by the changes that concern it.
//!
//! Of a query with an offset or a limit more is held than is shown: what is passed over, what is shown, and some behind it, the *slack*.
//! What is deleted or leaves is replaced from there; when that is used up, the query must be asked again ([`Window::is_short`]). Without
//! offset and limit everything is held and shown.
//!
//! Invariants, property-tested:
//! - What is held is a gapless beginning of all documents that match, in order; with `is_complete` it is all of them.
//! - Who carries out the steps one after the other (take away by id; put in at the index) has what is shown.
//! - What is pushed out is told before what pushed it.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::Operation;

/// Documents held behind what is shown: half as many as are shown, within these bounds.
const SLACK_MIN: usize = 10;
const SLACK_MAX: usize = 100;

/// Which part of a result is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Section {
    /// Documents that are passed over.
    pub(crate) offset: usize,
    /// Documents that are shown at most; `None`: all.
    pub(crate) limit: Option<usize>,
}

impl Section {
    /// Everything is shown.
    pub(crate) fn is_whole(&self) -> bool {
        self.offset == 0 && self.limit.is_none()
    }

    /// Documents that are passed over or shown.
    pub(crate) fn end(&self) -> usize {
        self.limit
            .map_or(usize::MAX, |limit| self.offset.saturating_add(limit))
    }

    /// Documents to hold.
    pub(crate) fn held_max(&self) -> usize {
        let slack = (self.end() / 2).clamp(SLACK_MIN, SLACK_MAX);
        self.end().saturating_add(slack)
    }
}

/// A document of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    /// Where it stands: bytes that compare like the documents do.
    pub(crate) place: Bytes,
    pub(crate) key: Arc<str>,
    pub(crate) version: u64,
    /// Its JSON; empty where everything is shown, since then nobody asks for it.
    pub(crate) body: Bytes,
}

/// How a result changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Move {
    /// It is taken away.
    Out,
    /// It is put in at this index, behind the offset.
    In(usize),
    /// It is another one, and stays here.
    Stay(usize),
    /// It is another one, and taken from where it was to here.
    To(usize),
}

/// One step from one shown result to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) step: Move,
    pub(crate) key: Arc<str>,
    /// The write that led to it; `None` of operations: this document was not written itself.
    pub(crate) operation: Operation,
    /// What is known of a document that was not written; empty: nothing.
    pub(crate) body: Bytes,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Window {
    section: Section,
    held: Vec<Item>,
    /// By key.
    places: HashMap<Arc<str>, Bytes>,
    is_complete: bool,
}

impl Window {
    /// `held` is the gapless beginning of all documents, in order; `is_complete`: it is all of them.
    pub(crate) fn new(section: Section, held: Vec<Item>, is_complete: bool) -> Window {
        let mut window = Window {
            section,
            places: HashMap::with_capacity(held.len()),
            held,
            is_complete,
        };
        window.cut();
        let places = window.held.iter();
        window.places = places
            .map(|item| (item.key.clone(), item.place.clone()))
            .collect();
        window
    }

    /// What is shown, in order.
    pub(crate) fn shown(&self) -> &[Item] {
        &self.held[self.visible()]
    }

    /// The same, holding no bodies: everything is shown, so changes bring all that is told.
    pub(crate) fn without_bodies(mut self) -> Window {
        self.forget_bodies();
        self
    }

    /// See [`Self::without_bodies`].
    pub(crate) fn forget_bodies(&mut self) {
        for item in &mut self.held {
            item.body = Bytes::new();
        }
    }

    /// Documents that are held.
    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether there may be documents to show that are not held: the query must be asked again.
    pub(crate) fn is_short(&self) -> bool {
        !self.is_complete && self.held.len() < self.section.end()
    }

    /// Takes over that a document was written: `now` is what it is, if it matches.
    pub(crate) fn apply(
        &mut self,
        key: &str,
        now: Option<Item>,
        operation: Operation,
    ) -> Vec<Step> {
        let from = self.position(key);
        let mut lost = Vec::new();
        let mut gained = Vec::new();
        if let Some(from) = from {
            self.take_out(from, &mut lost, &mut gained);
        }
        let to = now.and_then(|now| self.put_in(now, &mut lost, &mut gained));
        // A neighbour that the one lets in and the other pushes out again has not moved.
        let returned: Vec<Arc<str>> = lost
            .iter()
            .filter(|item| *item.key != *key && gained.contains(&item.key))
            .map(|item| item.key.clone())
            .collect();
        lost.retain(|item| !returned.contains(&item.key));
        gained.retain(|other| !returned.contains(other));
        self.steps(key, operation, from.zip(to), &lost, &gained)
    }

    fn steps(
        &self,
        key: &str,
        operation: Operation,
        moved: Option<(usize, usize)>,
        lost: &[Item],
        gained: &[Arc<str>],
    ) -> Vec<Step> {
        let mut steps = Vec::with_capacity(lost.len() + gained.len());
        let is_it = |other: &str| other == key;
        let stays =
            lost.iter().any(|item| is_it(&item.key)) && gained.iter().any(|other| is_it(other));
        let operation_of = |other: &str| match is_it(other) {
            true => operation,
            false => Operation::None,
        };
        for item in lost.iter().filter(|item| !(stays && is_it(&item.key))) {
            steps.push(Step {
                step: Move::Out,
                key: item.key.clone(),
                operation: operation_of(&item.key),
                body: item.body.clone(),
            });
        }
        for entered in gained {
            let Some(at) = self.position(entered) else {
                continue;
            };
            let index = at - self.section.offset;
            steps.push(Step {
                step: match moved {
                    Some((from, to)) if stays && is_it(entered) => match from == to {
                        true => Move::Stay(index),
                        false => Move::To(index),
                    },
                    _ => Move::In(index),
                },
                key: entered.clone(),
                operation: operation_of(entered),
                body: self.held[at].body.clone(),
            });
        }
        steps
    }

    /// Takes an item out; notes which ones are shown no more, and which ones are instead.
    fn take_out(&mut self, at: usize, lost: &mut Vec<Item>, gained: &mut Vec<Arc<str>>) {
        let visible = self.visible();
        if at < visible.start && !visible.is_empty() {
            lost.push(self.held[visible.start].clone());
        }
        let item = self.held.remove(at);
        self.places.remove(&item.key);
        if visible.contains(&at) {
            lost.push(item);
        }
        let last = self.section.end().wrapping_sub(1);
        if at <= last
            && let Some(next) = self.held.get(last)
        {
            gained.push(next.key.clone());
        }
    }

    /// Puts an item in, if it is known where: not behind what is held, unless that is all there is.
    fn put_in(
        &mut self,
        item: Item,
        lost: &mut Vec<Item>,
        gained: &mut Vec<Arc<str>>,
    ) -> Option<usize> {
        let at = self.held.partition_point(|held| held.place < item.place);
        if at == self.held.len() && !self.is_complete {
            return None;
        }
        let end = self.section.end();
        // Without a place to show nothing is pushed out of it.
        if at < end
            && end > self.section.offset
            && let Some(pushed) = self.held.get(end - 1)
        {
            lost.push(pushed.clone());
        }
        let key = item.key.clone();
        self.places.insert(key.clone(), item.place.clone());
        self.held.insert(at, item);
        let visible = self.visible();
        if visible.contains(&at) {
            gained.push(key);
        } else if at < visible.start
            && let Some(pulled) = self.held.get(visible.start).filter(|_| !visible.is_empty())
        {
            gained.push(pulled.key.clone());
        }
        self.cut();
        Some(at)
    }

    /// Takes over what the query says now; gives the steps from what was shown to what is.
    pub(crate) fn replace(&mut self, held: Vec<Item>, is_complete: bool) -> Vec<Step> {
        let next = Window::new(self.section, held, is_complete);
        let before = std::mem::replace(self, next);
        let mut steps = Vec::new();
        // What the client has; a document that did not move is met at its index.
        let mut list: Vec<&Item> = Vec::with_capacity(before.shown().len());
        for item in before.shown() {
            match self.is_shown(&item.key) {
                true => list.push(item),
                false => steps.push(step(Move::Out, item)),
            }
        }
        for (at, item) in self.shown().iter().enumerate() {
            let is_at = |other: &&Item| other.key == item.key;
            if list.get(at).is_some_and(is_at) {
                if list[at].version != item.version {
                    steps.push(step(Move::Stay(at), item));
                }
                continue;
            }
            if before.is_shown(&item.key)
                && let Some(was) = list.iter().position(|other| other.key == item.key)
            {
                list.remove(was);
                steps.push(step(Move::To(at), item));
            } else {
                steps.push(step(Move::In(at), item));
            }
            list.insert(at, item);
        }
        steps
    }

    fn is_shown(&self, key: &str) -> bool {
        let visible = self.visible();
        self.position(key).is_some_and(|at| visible.contains(&at))
    }

    fn visible(&self) -> Range<usize> {
        let end = self.section.end().min(self.held.len());
        self.section.offset.min(end)..end
    }

    fn position(&self, key: &str) -> Option<usize> {
        let place = self.places.get(key)?;
        self.held
            .binary_search_by(|item| item.place.cmp(place))
            .ok()
    }

    /// Lets go of what is too much.
    fn cut(&mut self) {
        let held_max = self.section.held_max();
        if self.held.len() > held_max {
            for item in self.held.drain(held_max..) {
                self.places.remove(&item.key);
            }
            self.is_complete = false;
        }
    }
}

fn step(step: Move, item: &Item) -> Step {
    Step {
        step,
        key: item.key.clone(),
        operation: Operation::None,
        body: item.body.clone(),
    }
}

#[cfg(test)]
mod tests;
