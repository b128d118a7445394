//! Partial updates as the log holds them: [`document::update::Update`] to `larder.log.v1.Update` and back.

use document::body::Expiry;
use document::update::{self, Kind, Operation, Segment, Step, Update};
use proto::log;

use super::outcome::Misfit;
use crate::error::{Error, Result};

/// Operations and their numbers in the log.
const OPERATIONS: [(Operation, log::UpdateOperation); 19] = [
    (Operation::Set, log::UpdateOperation::Set),
    (Operation::Inc, log::UpdateOperation::Inc),
    (Operation::Dec, log::UpdateOperation::Dec),
    (Operation::Mul, log::UpdateOperation::Mul),
    (Operation::Min, log::UpdateOperation::Min),
    (Operation::Max, log::UpdateOperation::Max),
    (Operation::And, log::UpdateOperation::And),
    (Operation::Or, log::UpdateOperation::Or),
    (Operation::Xor, log::UpdateOperation::Xor),
    (Operation::CurrentDate, log::UpdateOperation::CurrentDate),
    (Operation::Push, log::UpdateOperation::Push),
    (Operation::Unshift, log::UpdateOperation::Unshift),
    (Operation::Pop, log::UpdateOperation::Pop),
    (Operation::Shift, log::UpdateOperation::Shift),
    (Operation::Replace, log::UpdateOperation::Replace),
    (Operation::Add, log::UpdateOperation::Add),
    (Operation::Remove, log::UpdateOperation::Remove),
    (Operation::Put, log::UpdateOperation::Put),
    (Operation::Rename, log::UpdateOperation::Rename),
];

/// The update for the log. The members may have `bytes_max` bytes afterwards.
pub fn to_log(update: Update, bytes_max: u32) -> log::Update {
    let shapes = update.shapes.into_iter();
    log::Update {
        steps: update.steps.into_iter().map(step_to_log).collect(),
        shapes: shapes.map(|names| log::UpdateShape { names }).collect(),
        bytes_max,
        expiry: super::expiry::to_log(update.expiry),
    }
}

fn step_to_log(step: Step) -> log::UpdateStep {
    let operation = OPERATIONS
        .into_iter()
        .find(|(operation, _)| *operation == step.operation)
        .map_or(log::UpdateOperation::Unspecified, |(_, number)| number);
    let kind = match step.kind {
        Kind::Json => log::UpdateKind::Json,
        Kind::Integer => log::UpdateKind::Integer,
        Kind::Double => log::UpdateKind::Double,
        Kind::DateTime => log::UpdateKind::DateTime,
        Kind::Date => log::UpdateKind::Date,
        Kind::Time => log::UpdateKind::Time,
    };
    let path = step.path.into_iter().map(|segment| log::UpdateSegment {
        name: segment.name,
        is_index: segment.is_index,
        shape: segment.shape.and_then(|shape| u32::try_from(shape).ok()),
    });
    log::UpdateStep {
        operation: operation.into(),
        path: path.collect(),
        kind: kind.into(),
        operand: step.operand,
    }
}

/// The operation of a number in the log; `None`: this release does not know it.
pub fn operation(number: log::UpdateOperation) -> Option<Operation> {
    let known = OPERATIONS.into_iter().find(|(_, known)| *known == number);
    known.map(|(operation, _)| operation)
}

/// The update of a command.
///
/// # Errors
/// [`Error::Corrupt`]: an operation or a kind that this release does not know. It cannot be passed over: others may know it.
pub(super) fn from_log(update: &log::Update) -> Result<Update> {
    let steps = update.steps.iter().map(step_from_log);
    Ok(Update {
        steps: steps.collect::<Result<_>>()?,
        shapes: update
            .shapes
            .iter()
            .map(|shape| shape.names.clone())
            .collect(),
        // Of the command itself, see `write::expiry`.
        expiry: Expiry::Kept,
    })
}

fn step_from_log(step: &log::UpdateStep) -> Result<Step> {
    let operation = log::UpdateOperation::try_from(step.operation)
        .ok()
        .and_then(operation);
    let Some(operation) = operation else {
        let number = step.operation;
        return Err(Error::corrupt(format!(
            "command: unknown update operation {number}"
        )));
    };
    let kind = match log::UpdateKind::try_from(step.kind) {
        Ok(log::UpdateKind::Json) => Kind::Json,
        Ok(log::UpdateKind::Integer) => Kind::Integer,
        Ok(log::UpdateKind::Double) => Kind::Double,
        Ok(log::UpdateKind::DateTime) => Kind::DateTime,
        Ok(log::UpdateKind::Date) => Kind::Date,
        Ok(log::UpdateKind::Time) => Kind::Time,
        Err(_) => {
            let number = step.kind;
            return Err(Error::corrupt(format!(
                "command: unknown update kind {number}"
            )));
        }
    };
    let path = step.path.iter().map(|segment| Segment {
        name: segment.name.clone(),
        is_index: segment.is_index,
        shape: segment.shape.map(|shape| shape as usize),
    });
    Ok(Step {
        operation,
        path: path.collect(),
        kind,
        operand: step.operand.clone(),
    })
}

/// A misfit as it is stored.
pub(super) fn stored_misfit(misfit: update::Misfit) -> Misfit {
    match misfit {
        update::Misfit::NotANumber => Misfit::NotANumber,
        update::Misfit::NotAnInteger => Misfit::NotAnInteger,
        update::Misfit::NotAList => Misfit::NotAList,
        update::Misfit::NotAnObject => Misfit::NotAnObject,
        update::Misfit::NoElement => Misfit::NoElement,
        update::Misfit::NotAKey => Misfit::NotAKey,
        update::Misfit::Overflow => Misfit::Overflow,
    }
}

impl From<Misfit> for update::Misfit {
    fn from(misfit: Misfit) -> update::Misfit {
        match misfit {
            Misfit::NotANumber => update::Misfit::NotANumber,
            Misfit::NotAnInteger => update::Misfit::NotAnInteger,
            Misfit::NotAList => update::Misfit::NotAList,
            Misfit::NotAnObject => update::Misfit::NotAnObject,
            Misfit::NoElement => update::Misfit::NoElement,
            Misfit::NotAKey => update::Misfit::NotAKey,
            Misfit::Overflow => update::Misfit::Overflow,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn updates_round_trip_and_unknown_ones_are_corrupt() {
        for (at, (operation, _)) in Operation::ALL.into_iter().enumerate() {
            let kinds = [
                Kind::Json,
                Kind::Integer,
                Kind::Double,
                Kind::DateTime,
                Kind::Date,
                Kind::Time,
            ];
            let step = Step {
                operation,
                path: vec![
                    Segment {
                        name: "a".to_owned(),
                        ..Segment::default()
                    },
                    Segment {
                        name: "0".to_owned(),
                        is_index: true,
                        shape: Some(at),
                    },
                ],
                kind: kinds[at % kinds.len()],
                operand: at.to_string(),
            };
            let update = Update {
                steps: vec![step],
                shapes: vec![vec!["x".to_owned()]],
                expiry: Expiry::Kept,
            };
            let mut logged = to_log(update.clone(), 7);
            assert_eq!(from_log(&logged).expect("decodes"), update);
            logged.steps[0].operation = 0;
            assert!(matches!(from_log(&logged), Err(Error::Corrupt { .. })));
            logged.steps[0].operation = 1;
            logged.steps[0].kind = 99;
            assert!(matches!(from_log(&logged), Err(Error::Corrupt { .. })));
        }
    }
}
