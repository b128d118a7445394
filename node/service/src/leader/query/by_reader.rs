//! Finding documents by who may read them, where the caller may read few of those that a plan would look at.
//!
//! What is found is a superset of what the caller may read: filter and rights are asked of each document as anywhere else. The entries lie in
//! the order of keys, so pages, tokens and results are those of a scan.

use std::ops::{Bound, ControlFlow};
use std::time::Instant;

use document::index::Access;
use document::query::SortKey;
use document::readers::of_caller;
use storage::machine::ReplicaView;
use storage::tables::estimates::{self, Effort};
use storage::tables::readers;

use super::planned::{EXACT_MAX, Planned};
use super::top::Top;
use super::{SLICE, Walk};
use crate::auth::grant::Grant;
use crate::error::Result;
use crate::forward::{ExplainedRefusal, Explanation};

/// The name of such a plan.
pub(super) const KIND: &str = "readers";

/// References of a caller that are looked under at most: each is a walk of its own. A caller with more gets the other plan.
const REFERENCES_MAX: usize = 64;

/// What it costs to look at an entry and the document that it names, beside one document of a scan. As the planner weighs it.
const ENTRY_AND_READ: u64 = 6;

/// The references under which to look for all documents of a grant, if that is cheaper than to look at all there are.
pub(in crate::leader) fn cheaper_references<'g>(
    view: &ReplicaView<'_>,
    grant: &'g Grant<'_>,
) -> Result<Option<Vec<&'g str>>> {
    let Some((references, entries)) = entries_of(view, grant)? else {
        return Ok(None);
    };
    let (database, bucket) = (grant.database(), grant.bucket());
    let all = estimates::documents(view, database, bucket, Effort::exact(EXACT_MAX))?;
    let is_cheaper = entries.saturating_mul(ENTRY_AND_READ) < all;
    Ok(is_cheaper.then_some(references))
}

/// The references of a caller who may not see everything, and about how many entries there are under them; `None`: they cannot be used.
fn entries_of<'g>(
    view: &ReplicaView<'_>,
    grant: &'g Grant<'_>,
) -> Result<Option<(Vec<&'g str>, u64)>> {
    let Some(caller) = grant.restricted() else {
        return Ok(None);
    };
    let (database, bucket) = (grant.database(), grant.bucket());
    let references = of_caller(caller);
    if references.len() > REFERENCES_MAX || !readers::is_complete(view, database, bucket)? {
        return Ok(None);
    }
    let entries = readers::estimate(view, database, bucket, &references, EXACT_MAX)?;
    Ok(Some((references, entries)))
}

impl Walk {
    /// About how many entries the caller has, if looking at them is cheaper than what was planned.
    pub(super) fn readers_instead(
        &self,
        view: &ReplicaView<'_>,
        planned: &Planned,
    ) -> Result<Option<u64>> {
        let is_by_id = matches!(planned.plan.access, Access::Keys(_));
        if is_by_id || !planned.known.keeps_readers() {
            return Ok(None);
        }
        let Some((_, entries)) = entries_of(view, self.readable.grant())? else {
            return Ok(None);
        };
        let (database, bucket) = (self.database, self.bucket);
        let all = match self.known.documents(self.place()) {
            Some(all) => all,
            None => estimates::documents(view, database, bucket, Effort::exact(EXACT_MAX))?,
        };
        let planned_cost = match &planned.plan.access {
            // Ends as early for what it finds as a walk over the entries would.
            Access::Scan | Access::Keys(_) => all,
            // Looks further, the fewer of the documents count.
            Access::Index(access) if access.order.is_some() => {
                let further = planned.plan.estimated.saturating_mul(all) / entries.max(1);
                further.min(all).saturating_mul(ENTRY_AND_READ)
            }
            Access::Index(_) | Access::Union(_) => {
                planned.plan.estimated.saturating_mul(ENTRY_AND_READ)
            }
        };
        let is_cheaper = entries.saturating_mul(ENTRY_AND_READ) < planned_cost;
        Ok(is_cheaper.then_some(entries))
    }

    /// Notes that entries of readers would have helped a query that met documents which the caller may not read.
    pub(super) fn want_readers(&self, view: &ReplicaView<'_>) -> Result<()> {
        let (database, bucket) = (self.database, self.bucket);
        if self.readable.has_refused() && !readers::is_complete(view, database, bucket)? {
            self.wanted_readers.want((self.shard, database, bucket));
        }
        Ok(())
    }

    /// What a shard says of such a plan: the one that it was taken for is what was refused.
    pub(super) fn describe_readers(explanation: &mut Explanation, entries: u64) {
        explanation.refused.insert(
            0,
            ExplainedRefusal {
                index: explanation.accesses.first().map(|access| access.index),
                estimated: explanation.estimated,
                reason: "costs more than all that the caller may read".to_owned(),
            },
        );
        KIND.clone_into(&mut explanation.plan);
        explanation.accesses.clear();
        explanation.exact = false;
        explanation.estimated = entries;
    }

    /// Results or their count in the order of keys.
    pub(super) fn take_by_reader(
        &mut self,
        view: &ReplicaView<'_>,
        after: Option<&str>,
    ) -> Result<()> {
        let slice_end = Instant::now() + SLICE;
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.visit_readable(view, from, |walk, key| {
            let taken = walk.fetch(view, key, |walk, row| {
                walk.take_in_key_order(row, slice_end)
            })?;
            Ok(taken.unwrap_or(ControlFlow::Continue(())))
        })
    }

    /// Offers what the caller may read to the first of an order.
    pub(super) fn offer_by_reader(
        &mut self,
        view: &ReplicaView<'_>,
        after: Option<&SortKey>,
        top: &mut Top,
    ) -> Result<()> {
        self.visit_readable(view, Bound::Unbounded, |walk, key| {
            walk.fetch(view, key, |walk, row| walk.offer(row, after, top))?;
            Ok(ControlFlow::Continue(()))
        })
    }

    fn visit_readable(
        &mut self,
        view: &ReplicaView<'_>,
        from: Bound<&str>,
        mut each: impl FnMut(&mut Walk, &str) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let (database, bucket) = (self.database, self.bucket);
        let grant = self.readable.grant().clone();
        let references = grant.restricted().map(of_caller).unwrap_or_default();
        readers::visit(view, database, bucket, &references, from, &mut |key| {
            self.pass()?;
            self.count_entry()?;
            each(self, key)
        })
    }
}
