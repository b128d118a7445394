//! What a shard says about how it answered.

use std::sync::OnceLock;

use document::index::{Access, IndexAccess};
use metrics::{Counter, counter};

use super::by_reader;
use super::planned::Planned;
use crate::error::Result;
use crate::forward::{ExplainedAccess, ExplainedRefusal, Explanation};
use crate::metrics::{QUERY_EXAMINED, QUERY_PLANS};

/// Ranges that are written out.
const RANGES_SHOWN: usize = 16;

/// Kinds of plans, as they are named.
const KINDS: [&str; 5] = ["scan", "keys", "index", "union", by_reader::KIND];

/// The kind of a plan.
pub(super) fn kind(access: &Access) -> &'static str {
    KINDS[number(access)]
}

fn number(access: &Access) -> usize {
    match access {
        Access::Scan => 0,
        Access::Keys(_) => 1,
        Access::Index(_) => 2,
        Access::Union(_) => 3,
    }
}

/// Counters by kind, made when first used.
#[derive(Default)]
pub(crate) struct PlanMeter {
    plans: [OnceLock<Counter>; KINDS.len()],
    examined: [OnceLock<Counter>; KINDS.len()],
}

impl PlanMeter {
    pub(super) fn count(&self, kind: &'static str, examined: u64) {
        let Some(at) = KINDS.iter().position(|name| *name == kind) else {
            return;
        };
        self.plans[at]
            .get_or_init(|| counter!(QUERY_PLANS, "plan" => kind))
            .increment(1);
        self.examined[at]
            .get_or_init(|| counter!(QUERY_EXAMINED, "plan" => kind))
            .increment(examined);
    }
}

/// What is known of a plan before it is carried out.
pub(super) fn describe(planned: &Planned) -> Result<Explanation> {
    let plan = &planned.plan;
    let accesses: &[IndexAccess] = match &plan.access {
        Access::Scan | Access::Keys(_) => &[],
        Access::Index(access) => std::slice::from_ref(access),
        Access::Union(accesses) => accesses,
    };
    let describe = |access: &IndexAccess| {
        let index = &planned.index(access)?.index;
        let ranges = access.ranges.iter().take(RANGES_SHOWN);
        Ok(ExplainedAccess {
            index: access.id,
            definition: index.definition().to_json(),
            ranges: ranges.map(|range| index.describe(range)).collect(),
            ranges_count: access.ranges.len() as u64,
            order: match access.order {
                None => "",
                Some(order) if order.backward => "backward",
                Some(_) => "forward",
            }
            .to_owned(),
        })
    };
    let refused = plan.refused.iter().map(|refused| ExplainedRefusal {
        index: refused.index,
        estimated: refused.estimated,
        reason: refused.reason.to_owned(),
    });
    Ok(Explanation {
        plan: kind(&plan.access).to_owned(),
        accesses: accesses.iter().map(describe).collect::<Result<_>>()?,
        exact: plan.is_exact,
        estimated: plan.estimated,
        refused: refused.collect(),
        ..Explanation::default()
    })
}
