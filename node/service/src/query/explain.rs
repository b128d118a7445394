//! How each shard finds its part of a query: the plan, what it looked at, and how long that took.
//!
//! The query is carried out as usual, up to the first page of each shard, and the documents are left out.

use std::sync::Arc;
use std::time::Duration;

use proto::{NodeId, ShardId};
use serde_json::{Map, Value, json};

use super::reads::{Page, Reads};
use super::{QueryRequest, prepare, scatter};
use crate::Core;
use crate::auth::policy;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::forward::{self, Explanation};

/// What one shard says of its part of a query.
#[derive(Clone, Debug, PartialEq)]
pub struct ShardExplanation {
    /// The shard.
    pub shard: ShardId,
    /// Until the answer was here, with those of other shards of the same node; zero without one.
    pub took: Duration,
    /// How it answered, or why it did not.
    pub answer: Result<Explanation>,
}

impl ShardExplanation {
    /// All shards' as clients see them: `slowest`, the shard that took longest, and `shards`.
    pub fn to_json(all: &[ShardExplanation]) -> Value {
        let slowest = all.iter().max_by_key(|one| (one.took, one.walk_us()));
        let shards: Vec<Value> = all.iter().map(ShardExplanation::one_to_json).collect();
        json!({
            "slowest": slowest.map(|slowest| slowest.shard.0),
            "shards": shards,
        })
    }

    /// How long the walk took, microseconds: the answers of one node come together.
    fn walk_us(&self) -> u64 {
        self.answer.as_ref().map_or(0, |answer| answer.micros)
    }

    fn one_to_json(&self) -> Value {
        let mut value = match &self.answer {
            Ok(explanation) => explanation_to_json(explanation),
            Err(error) => json!({
                "error": { "code": error.code.as_str(), "message": error.message },
            }),
        };
        value["shard"] = json!(self.shard.0);
        value["ms"] = json!(millis(self.took));
        value
    }
}

fn explanation_to_json(explanation: &Explanation) -> Value {
    let accesses = explanation.accesses.iter().map(|access| {
        let mut value = json!({
            "id": access.index,
            "definition": definition(&access.definition),
            "ranges": access.ranges,
            "rangesCount": access.ranges_count,
        });
        if !access.order.is_empty() {
            value["order"] = json!(access.order);
        }
        value
    });
    let refused = explanation.refused.iter().map(|refused| {
        json!({
            "index": refused.index,
            "estimated": refused.estimated,
            "reason": refused.reason,
        })
    });
    json!({
        "node": NodeId(explanation.node).to_string(),
        "plan": explanation.plan,
        "indexes": accesses.collect::<Vec<_>>(),
        "exact": explanation.exact,
        "estimated": explanation.estimated,
        "examinedEntries": explanation.entries,
        "examinedDocuments": explanation.documents,
        "returned": explanation.returned,
        "hasMore": explanation.has_more,
        "walkMs": millis(Duration::from_micros(explanation.micros)),
        "refused": refused.collect::<Vec<_>>(),
    })
}

fn definition(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::Object(Map::new()))
}

/// With three digits behind the point.
fn millis(time: Duration) -> f64 {
    time.as_micros() as f64 / 1_000.0
}

/// See [`crate::Service::explain`] and [`crate::Service::explain_as`].
pub(crate) async fn explain(
    core: &Arc<Core>,
    ctx: &Context,
    bucket: &str,
    request: QueryRequest,
    user: Option<&str>,
) -> Result<Vec<ShardExplanation>> {
    let (mut session, template) = prepare(core, ctx, bucket, &request).await?;
    policy::require_admin(&session.principal)?;
    if let Some(user) = user {
        session.principal = Box::pin(core.principal_as(ctx, &session, user)).await?;
    }
    let template = forward::Query {
        explain: true,
        ..template
    };
    let (scatter, _) = scatter(core, &session, template, request.continuation)?;
    let _permit = core.query_permit(ctx.deadline).await?;
    let wanted = request
        .count
        .map(|count| count.saturating_add(request.start).max(1));
    let reads = Reads {
        core,
        session: &session,
        freshness: &request.freshness,
        deadline: ctx.deadline,
    };
    let questions = scatter.questions(wanted);
    let answers = reads.all(&questions).await?;
    let shards = questions.iter().map(|(shard, _)| *shard);
    Ok(shards.zip(answers).map(of_shard).collect())
}

fn of_shard((shard, answer): (ShardId, Result<Page>)) -> ShardExplanation {
    let took = answer.as_ref().map_or(Duration::ZERO, |page| page.took);
    let answer = answer.and_then(|page| {
        page.found
            .explanation
            .ok_or_else(|| Error::unavailable("the node of the shard cannot explain yet"))
    });
    ShardExplanation {
        shard,
        took,
        answer,
    }
}
