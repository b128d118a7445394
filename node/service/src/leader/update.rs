//! Partial updates at the leader: the operations fitted to the class of now. What they make of the document is apply's.

use cluster::state::{BucketInfo, Database};
use document::body;
use document::update::{self, Operation as Verb};
use proto::log::mutation::Operation;
use storage::machine::update::to_log;

use super::Shards;
use super::prepare::{Prepared, check_expiry};
use crate::context::Condition;
use crate::error::{Error, Result};
use crate::forward::Write;

impl Shards {
    /// The operation for the log.
    pub(super) fn update_operation(
        &self,
        database: &Database,
        bucket: &BucketInfo,
        write: &Write,
        condition: Condition,
    ) -> Result<Operation> {
        if condition == Condition::Absent {
            return Err(Error::bad_request(
                "an update changes a document that is there: the condition cannot be its absence",
            ));
        }
        let layout = self.layouts.get(database, bucket)?;
        let limits = body::Limits {
            depth_max: self.limits.depth_max,
        };
        let update = update::parse(&write.body, &layout, &database.schema, &limits)?;
        check_expiry(write, update.expiry)?;
        let bytes_max = u32::try_from(self.limits.body_bytes_max).unwrap_or(u32::MAX);
        Ok(Operation::Update(to_log(update, bytes_max)))
    }
}

impl Prepared {
    /// A step of an update as the client named it: `$inc of "n"`.
    pub(super) fn step_text(&self, step: u32) -> String {
        let Some(Operation::Update(update)) = &self.mutation.operation else {
            return String::new();
        };
        let Some(step) = usize::try_from(step)
            .ok()
            .and_then(|at| update.steps.get(at))
        else {
            return String::new();
        };
        let names: Vec<&str> = step.path.iter().map(|part| part.name.as_str()).collect();
        let verb = storage::machine::update::operation(step.operation()).map_or("", Verb::as_str);
        format!("{verb} of {:?}", names.join("."))
    }
}
