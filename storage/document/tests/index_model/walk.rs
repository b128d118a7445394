//! Entries of an index, and a walk over them as a shard makes it.

use std::fmt;

use document::index::{Index, IndexAccess, IndexOrder, Range};
use document::query::{Sort, SortKey, Subject};

use crate::model::Value;

pub(crate) struct Document {
    pub(crate) id: String,
    pub(crate) fields: Vec<u8>,
    pub(crate) value: Value,
}

impl Document {
    pub(crate) fn subject(&self) -> Subject<'_> {
        Subject {
            id: &self.id,
            version: 1,
            created_us: 0,
            updated_us: 0,
            fields: &self.fields,
        }
    }

    /// As it stands in entries.
    pub(crate) fn key(&self) -> &str {
        &self.id["/db/Thing/".len()..]
    }
}

impl fmt::Display for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {{{}}}",
            self.id,
            String::from_utf8_lossy(&self.fields)
        )
    }
}

pub(crate) struct Entry {
    /// The value, then the key.
    place: Vec<u8>,
    value: Vec<u8>,
    pub(crate) document: usize,
}

pub(crate) struct Entries {
    pub(crate) index: Index,
    /// In order.
    entries: Vec<Entry>,
}

impl Entries {
    pub(crate) fn of(index: Index, documents: &[Document]) -> Entries {
        let mut entries = Vec::new();
        for (at, document) in documents.iter().enumerate() {
            for value in index.values(&document.subject()).expect("few") {
                entries.push(Entry {
                    place: [&value[..], document.key().as_bytes()].concat(),
                    value,
                    document: at,
                });
            }
        }
        entries.sort_by(|one, two| one.place.cmp(&two.place));
        Entries { index, entries }
    }

    pub(crate) fn within(&self, range: &Range) -> impl DoubleEndedIterator<Item = &Entry> {
        let (from, to) = (range.from.clone(), range.to.clone());
        self.entries
            .iter()
            .filter(move |entry| entry.place >= from && (to.is_empty() || entry.place < to))
    }

    /// The first documents behind a place of an order, by a walk that stops as early as it may.
    #[allow(clippy::too_many_arguments, reason = "what a query is")]
    pub(crate) fn first(
        &self,
        access: &IndexAccess,
        order: IndexOrder,
        documents: &[Document],
        sort: &Sort,
        behind: Option<&SortKey>,
        wanted: usize,
        matches: &dyn Fn(usize) -> bool,
    ) -> Vec<usize> {
        let mut walk: Vec<&Entry> = access
            .ranges
            .iter()
            .flat_map(|range| self.within(range))
            .collect();
        if order.backward {
            walk.reverse();
        }
        let mut top: Vec<(SortKey, usize)> = Vec::new();
        let mut full: Option<&[u8]> = None;
        for entry in walk {
            let tie = self.index.tie(&entry.value, order.components);
            if full.is_some_and(|full| order.by_id || full != tie) {
                break;
            }
            let key = sort.key(&documents[entry.document].subject());
            let is_new = top.iter().all(|(_, present)| *present != entry.document);
            let is_behind = behind.is_none_or(|behind| key > *behind);
            if is_new && is_behind && matches(entry.document) {
                top.push((key, entry.document));
                top.sort();
                top.truncate(wanted);
            }
            if top.len() == wanted && full.is_none() {
                full = Some(tie);
            }
        }
        top.into_iter().map(|(_, document)| document).collect()
    }
}
