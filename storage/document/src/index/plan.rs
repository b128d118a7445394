//! The choice between indexes and a scan.
//!
//! What is weighed is how many entries and documents are looked at, a document that is read by its key being dearer than the next one of a
//! scan. An order that an index gives counts where few documents are wanted. Estimates decide how fast an answer comes, never what it is.

use super::compiled::Index;
use super::conditions::Conditions;
use super::order::IndexOrder;
use super::places::place_without_index;
use super::ranges::{Range, Reach};
use crate::id;
use crate::query::expression::{Expression, Relation, Test};
use crate::query::value::Value;
use crate::query::{Error, Filter, Sort};
use crate::schema::Layout;

/// An index that a plan may use.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Its id.
    pub id: u32,
    /// The index.
    pub index: Index,
}

/// What a planner asks of the shard. Estimates may be wrong, and must be cheap.
pub trait Statistics {
    /// About how many documents the bucket has here.
    fn documents(&mut self) -> u64;
    /// About how many entries of an index lie in these ranges. How many more than `enough` there are does not matter.
    fn entries(&mut self, index: u32, ranges: &[Range], enough: u64) -> u64;
    /// How many entries and documents one query may look at. A plan that stays below is preferred to one that does not.
    fn examined_max(&mut self) -> u64 {
        u64::MAX
    }
}

/// How a shard finds the documents of a query.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where to look.
    pub access: Access,
    /// About how many entries or documents will be looked at.
    pub estimated: u64,
    /// Every document that the ranges hold, or that is there under the keys, matches: for counting without looking at documents.
    pub is_exact: bool,
    /// What was weighed and not taken, for `explain`.
    pub refused: Vec<Refused>,
}

/// See [`Plan::access`].
#[derive(Clone, Debug)]
pub enum Access {
    /// All documents, in the order of keys.
    Scan,
    /// These documents, by decoded key, ascending.
    Keys(Vec<String>),
    /// Ranges of one index.
    Index(IndexAccess),
    /// The union of several; documents may occur in more than one.
    Union(Vec<IndexAccess>),
}

/// Ranges of an index.
#[derive(Clone, Debug)]
pub struct IndexAccess {
    /// Id of the index.
    pub id: u32,
    /// Ascending and disjoint.
    pub ranges: Vec<Range>,
    /// A document may occur more than once.
    pub is_multiple: bool,
    /// Set if walking the ranges gives the order of the query, or of its first fields.
    pub order: Option<IndexOrder>,
}

/// A plan that was not taken.
#[derive(Clone, Debug)]
pub struct Refused {
    /// The index; `None`: the scan, or the union of several indexes.
    pub index: Option<u32>,
    /// About how many entries or documents it would have looked at.
    pub estimated: u64,
    /// Why it was not taken.
    pub reason: &'static str,
}

/// The most filters of one `$or` that indexes are looked for.
const UNION_MAX: usize = 64;

/// What it costs to look at one document of a scan is 1; to read a document by its key, and to look at an entry:
const READ: f64 = 5.0;
const ENTRY: f64 = 0.5;

/// What a scan costs whatever it finds: so small buckets are read through their indexes as large ones are.
const SCAN: f64 = 100.0;

/// How many of the documents that the other conditions leave pass one that no index knows of.
const PASSING: f64 = 0.5;

/// Documents with equal values in an order that is only the beginning of the one that is wanted.
const TIES: f64 = 8.0;

/// A plan that is weighed.
struct Weighed {
    access: Access,
    /// Entries or documents to look at.
    looked_at: f64,
    cost: f64,
    is_exact: bool,
    is_beyond: bool,
}

/// Chooses how to find what a filter asks for in an order.
///
/// `wanted` is how many documents are wanted, from the first on; `None`: all; `Some(0)`: only their number. The choice depends on nothing
/// but the arguments; between equals the first id decides.
///
/// # Errors
/// [`Error::Unsupported`]: a filter about places without an index for it.
pub fn plan(
    filter: &Filter,
    order: &Sort,
    wanted: Option<u64>,
    candidates: &[Candidate],
    statistics: &mut dyn Statistics,
) -> Result<Plan, Error> {
    let condition = filter.condition();
    if let Some((_, expression)) = condition
        && let Some(path) = place_without_index(expression, "", candidates)
    {
        return Err(Error::Unsupported(format!(
            "a filter about places needs a complete geo index of {}",
            crate::json::excerpt(&path)
        )));
    }
    let conditions = condition
        .map(|(_, expression)| Conditions::of(expression))
        .unwrap_or_default();
    let keys = match condition {
        _ if conditions.is_never => Some((Vec::new(), true)),
        Some((layout, _)) => keys(&conditions, layout),
        None => None,
    };
    if let Some((keys, is_exact)) = keys {
        return Ok(Plan {
            estimated: keys.len() as u64,
            access: Access::Keys(keys),
            is_exact,
            refused: Vec::new(),
        });
    }
    let documents = statistics.documents();
    let examined_max = statistics.examined_max();
    let scan = (SCAN + documents as f64) / (ENTRY + READ);
    let mut planner = Planner {
        order,
        wanted,
        candidates,
        documents,
        examined_max,
        // A scan costs less than more entries; unless it may not be, and then the least is looked for.
        enough: match documents > examined_max {
            true => u64::MAX,
            false => scan.ceil() as u64,
        },
        statistics,
        refused: Vec::new(),
    };
    Ok(planner.plan(&conditions))
}

struct Planner<'p> {
    order: &'p Sort,
    wanted: Option<u64>,
    candidates: &'p [Candidate],
    documents: u64,
    examined_max: u64,
    /// Entries beyond which an index without the order is not taken.
    enough: u64,
    statistics: &'p mut dyn Statistics,
    refused: Vec<Refused>,
}

/// What one index can do.
struct Reached<'p> {
    candidate: &'p Candidate,
    reach: Reach,
    entries: f64,
    order: Option<IndexOrder>,
}

impl<'p> Planner<'p> {
    fn plan(&mut self, conditions: &Conditions<'_>) -> Plan {
        let mut reached = Vec::with_capacity(self.candidates.len());
        for candidate in self.candidates {
            let one = self.reach(candidate, conditions);
            if one.reach.bounded == 0 && one.order.is_none() {
                self.refuse(
                    Some(candidate.id),
                    one.entries,
                    "no condition that it answers on its first field, and another order",
                );
            } else {
                reached.push(one);
            }
        }
        let matching = self.matching(conditions, &reached);
        let mut weighed: Vec<(Option<u32>, Weighed)> = Vec::with_capacity(reached.len() + 2);
        for one in reached {
            let id = one.candidate.id;
            let is_walk = one.reach.bounded > 0 || self.is_first_few();
            if is_walk {
                weighed.push((Some(id), self.weigh(one, matching)));
            } else {
                self.refuse(
                    Some(id),
                    one.entries,
                    "all documents are wanted, and it only gives an order",
                );
            }
        }
        if let Some(union) = self.union(conditions) {
            weighed.push((None, union));
        }
        weighed.push((None, self.scan(conditions, matching)));

        // The first of the best: indexes by id, then the union, then the scan.
        let best = (0..weighed.len())
            .min_by(|&one, &two| {
                let key = |at: usize| (weighed[at].1.is_beyond, weighed[at].1.cost);
                let ((one, cost), (two, other)) = (key(one), key(two));
                one.cmp(&two).then(cost.total_cmp(&other))
            })
            .unwrap_or_default();
        let (_, taken) = weighed.remove(best);
        for (index, other) in weighed {
            let reason = if other.is_beyond && !taken.is_beyond {
                "looks at more than a query may"
            } else {
                "costs more"
            };
            self.refuse(index, other.looked_at, reason);
        }
        Plan {
            access: taken.access,
            estimated: taken.looked_at as u64,
            is_exact: taken.is_exact,
            refused: std::mem::take(&mut self.refused),
        }
    }

    fn refuse(&mut self, index: Option<u32>, looked_at: f64, reason: &'static str) {
        self.refused.push(Refused {
            index,
            estimated: looked_at as u64,
            reason,
        });
    }

    fn reach(&mut self, candidate: &'p Candidate, conditions: &Conditions<'_>) -> Reached<'p> {
        let (enough, is_first_few) = (self.enough, self.is_first_few());
        let statistics = &mut *self.statistics;
        let mut estimate =
            |ranges: &[Range], enough| statistics.entries(candidate.id, ranges, enough);
        let reach = Reach::of(&candidate.index, conditions, &mut estimate);
        let order = IndexOrder::of(&candidate.index, &reach, self.order);
        let entries = match (reach.bounded, order) {
            (0, _) => self.documents,
            // However many there are, a walk ends after as many as are wanted.
            (_, Some(order)) if order.is_whole && reach.is_exact() && is_first_few => {
                self.documents
            }
            _ => estimate(&reach.ranges, enough),
        };
        Reached {
            candidate,
            order,
            reach,
            entries: entries as f64,
        }
    }

    /// Whether some documents are wanted, and not all.
    fn is_first_few(&self) -> bool {
        self.wanted.is_some_and(|wanted| wanted > 0)
    }

    /// About how many documents match.
    fn matching(&self, conditions: &Conditions<'_>, reached: &[Reached<'_>]) -> f64 {
        reached
            .iter()
            .filter(|one| one.reach.bounded > 0)
            .map(|one| one.entries * passing(one.reach.uncovered()))
            .min_by(f64::total_cmp)
            .unwrap_or_else(|| self.documents as f64 * passing(conditions.count))
            .max(1.0)
    }

    /// How many of `all` are looked at before so many documents are found as are wanted.
    fn until_found(&self, all: f64, matching: f64) -> f64 {
        match self.wanted {
            Some(wanted) if wanted > 0 => all.min((wanted as f64 * all / matching).ceil()),
            _ => all,
        }
    }

    fn weigh(&mut self, one: Reached<'_>, matching: f64) -> Weighed {
        let Reached {
            candidate,
            reach,
            entries,
            order,
        } = one;
        let read = match order {
            Some(order) if order.is_whole => self.until_found(entries, matching),
            Some(_) => entries.min(self.until_found(entries, matching) * TIES),
            None if self.order.is_empty() => self.until_found(entries, matching),
            None => entries,
        };
        // In the order of keys, which no index gives, all entries are gathered before documents are read.
        let looked_at = if order.is_some() { read } else { entries };
        let is_exact = reach.is_exact();
        let read = match self.wanted {
            Some(0) if is_exact => 0.0,
            _ => read,
        };
        Weighed {
            looked_at,
            cost: looked_at * ENTRY + read * READ,
            is_exact,
            is_beyond: looked_at + read > self.examined_max as f64,
            access: Access::Index(IndexAccess {
                id: candidate.id,
                ranges: reach.ranges,
                is_multiple: reach.is_multiple,
                order,
            }),
        }
    }

    fn scan(&self, conditions: &Conditions<'_>, matching: f64) -> Weighed {
        let all = self.documents as f64;
        let looked_at = if self.order.is_empty() {
            self.until_found(all, matching.min(all.max(1.0)))
        } else {
            all
        };
        Weighed {
            access: Access::Scan,
            looked_at,
            cost: SCAN + looked_at,
            is_exact: conditions.count == 0,
            is_beyond: looked_at > self.examined_max as f64,
        }
    }

    /// The cheapest union of indexes for a `$or`, each of its filters together with the other conditions.
    fn union(&mut self, conditions: &Conditions<'_>) -> Option<Weighed> {
        let mut best: Option<Weighed> = None;
        for (number, filters) in &conditions.choices {
            if filters.len() > UNION_MAX {
                continue;
            }
            let found = self.union_of(conditions, *number, filters);
            if let Some(found) = found
                && best.as_ref().is_none_or(|best| found.cost < best.cost)
            {
                best = Some(found);
            }
        }
        best
    }

    fn union_of(
        &mut self,
        conditions: &Conditions<'_>,
        number: usize,
        filters: &[Expression],
    ) -> Option<Weighed> {
        let mut accesses = Vec::with_capacity(filters.len());
        let mut looked_at = 0.0;
        let mut is_exact = true;
        for filter in filters {
            let conditions = conditions.with_choice(number, filter);
            if conditions.is_never {
                continue;
            }
            let mut best: Option<Reached<'_>> = None;
            for candidate in self.candidates {
                let one = self.reach(candidate, &conditions);
                if one.reach.bounded > 0
                    && best.as_ref().is_none_or(|best| one.entries < best.entries)
                {
                    best = Some(one);
                }
            }
            let best = best?;
            if best.reach.ranges.is_empty() {
                continue;
            }
            looked_at += best.entries;
            is_exact &= best.reach.is_exact();
            accesses.push(IndexAccess {
                id: best.candidate.id,
                ranges: best.reach.ranges,
                is_multiple: best.reach.is_multiple,
                order: None,
            });
        }
        Some(Weighed {
            access: Access::Union(accesses),
            looked_at,
            cost: looked_at * (ENTRY + READ),
            is_exact,
            is_beyond: looked_at * 2.0 > self.examined_max as f64,
        })
    }
}

fn passing(conditions: usize) -> f64 {
    PASSING.powi(i32::try_from(conditions).unwrap_or(i32::MAX))
}

/// The keys that a condition on the id leaves, and whether there is no other condition.
fn keys(conditions: &Conditions<'_>, layout: &Layout) -> Option<(Vec<String>, bool)> {
    let term = conditions.terms.iter().find(|term| {
        let is_list = matches!(term.test, Test::Compare(Relation::Equal, _) | Test::In(_));
        term.path == "id" && is_list && !term.is_negated && !term.is_part
    })?;
    let values = match term.test {
        Test::Compare(_, value) => std::slice::from_ref(value),
        Test::In(values) => values,
        _ => return None,
    };
    let mut keys: Vec<String> = values
        .iter()
        .filter_map(|value| match value {
            Value::Text(id) => id::parse_object_id(id),
            _ => None,
        })
        .filter(|(bucket, _)| *bucket == layout.class())
        .map(|(_, key)| key)
        .collect();
    keys.sort_unstable();
    keys.dedup();
    Some((keys, conditions.count == 1))
}
