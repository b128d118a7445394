//! Commands on durable consumers, and what there is of them.

use std::error::Error as StdError;
use std::fmt::Write as _;

use goldenscript::ArgumentConsumer;
use proto::log::meta_command::Operation;
use proto::log::{
    AckConsumers, ConsumerAck, ConsumerCursor, ConsumerPosition, CreateConsumer, DropConsumer,
    RunConsumer,
};

use super::Group;
use crate::consumers;

/// `consumer NAME at=1,1 [bucket=B] [url=U] [secret=S]`, `drop_consumer NAME`, `ack ID at=2,1 [events=N] [epoch=N]`,
/// `run NAME paused|on`.
pub(super) fn operation(
    name: &str,
    args: &mut ArgumentConsumer<'_>,
) -> Result<Operation, Box<dyn StdError>> {
    let subject = args.next_pos().ok_or("name")?.to_owned();
    let mut text = |key| args.take_key(key).unwrap_or_default().to_owned();
    Ok(match name {
        "consumer" => Operation::CreateConsumer(CreateConsumer {
            database: 1,
            name: subject,
            bucket: text("bucket"),
            filter: text("filter"),
            url: text("url"),
            secret: text("secret"),
            position: Some(position(args)?),
        }),
        "drop_consumer" => Operation::DropConsumer(DropConsumer {
            database: 1,
            name: subject,
        }),
        "ack" => Operation::AckConsumers(AckConsumers {
            acks: vec![ConsumerAck {
                consumer: subject.parse()?,
                position: Some(position(args)?),
            }],
        }),
        _ => Operation::RunConsumer(RunConsumer {
            database: 1,
            name: subject,
            is_running: args.next_pos().ok_or("paused or on")? == "on",
        }),
    })
}

/// The last index that was seen, of each shard.
fn position(args: &mut ArgumentConsumer<'_>) -> Result<ConsumerPosition, Box<dyn StdError>> {
    let mut cursors = Vec::new();
    for index in args.take_key("at").ok_or("at")?.split(',') {
        cursors.push(ConsumerCursor {
            index: index.parse()?,
            ..ConsumerCursor::default()
        });
    }
    Ok(ConsumerPosition {
        epoch: args.take_key("epoch").unwrap_or("1").parse()?,
        cursors,
        events: args.take_key("events").unwrap_or("0").parse()?,
        moved_us: 0,
    })
}

/// A consumer a line, without what it shows nowhere.
pub(super) fn show(group: &Group) -> String {
    let (state, view) = (group.state(), group.replica.view());
    let mut out = String::new();
    for (name, consumer) in state.consumers.values().flatten() {
        let position = consumers::position(&view, consumer.id).expect("reads");
        let position = position.expect("has one");
        let at: Vec<_> = position.cursors.iter().map(|at| at.index).collect();
        let _ = writeln!(
            out,
            "{name}: {consumer:?} at {at:?}, {} events",
            position.events
        );
    }
    let keys = view.scan_prefix(storage::engine::Column::State, &[0x22]);
    let _ = writeln!(out, "{} positions", keys.count());
    out
}
