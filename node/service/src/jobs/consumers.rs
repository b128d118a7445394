//! What durable consumers need besides being read: their acknowledgements are written down, changes are sent to their targets, and how late
//! they are is measured. Sending and measuring is for the leader of the metadata; acknowledgements may lie at any node that was it.
//!
//! | part | owns |
//! |---|---|
//! | `sender` | sending to one target, over its failures |
//! | `gather` | batches out of a feed |
//! | `back_off` | when to try again |
//! | `lag` | how late consumers are |
//!
//! A sender belongs to a term: another leader begins where the consumer acknowledged last, and what was on its way then may come twice.

mod back_off;
mod gather;
mod lag;
mod sender;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::state::ClusterState;
use proto::ShardId;
use proto::log::{AckConsumers, meta_command};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::lag::Lags;
pub(crate) use self::sender::Sender;
use super::next_look;
use crate::Core;

/// Between two entries with acknowledgements.
const INTERVAL: Duration = Duration::from_secs(1);
/// An entry must be committed within this; longer than a failover. What is not waits for the next.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The job.
pub struct Consumers {
    core: Arc<Core>,
}

/// What a sender is made for: another one takes its place when any of it changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Assigned {
    consumer: u64,
    /// How often somebody said that it goes on: each time it tries at once.
    resumed: u64,
    term: u64,
}

impl Consumers {
    pub(super) fn new(core: Arc<Core>) -> Consumers {
        Consumers { core }
    }

    /// Runs until `stop` is cancelled, and then until what was acknowledged is written down.
    pub async fn run(self, stop: CancellationToken) {
        let (others, senders) = (CancellationToken::new(), stop.clone());
        let until_stop = async {
            tokio::join!(
                self.send(senders.clone()),
                Lags::new(Arc::clone(&self.core)).run(senders)
            );
            others.cancel();
        };
        tokio::join!(until_stop, self.write_down(others.clone()));
    }

    /// Writes acknowledgements down; when it is told to stop, the last ones, and then takes no more.
    pub(crate) async fn write_down(&self, stop: CancellationToken) {
        let desk = &self.core.shards.consumers;
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = desk.arrived() => self.write_all().await,
            }
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(INTERVAL) => {}
            }
        }
        desk.close();
        self.write_all().await;
    }

    pub(crate) async fn write_all(&self) {
        let desk = &self.core.shards.consumers;
        let deadline = Instant::now() + TIMEOUT;
        for acks in desk.waiting() {
            let command = AckConsumers { acks: acks.clone() };
            let command = meta_command::Operation::AckConsumers(command);
            match self.core.govern(command, deadline).await {
                Ok(()) => desk.kept(&acks),
                Err(error) => {
                    tracing::warn!(%error, "positions of consumers are not written down yet");
                    return;
                }
            }
        }
    }

    /// Keeps a sender for each consumer that has a target and is not paused.
    async fn send(&self, stop: CancellationToken) {
        let mut changes = self.core.metadata.changes();
        let mut running: HashMap<Assigned, JoinHandle<()>> = HashMap::new();
        loop {
            let state = changes.borrow_and_update().clone();
            let wanted = self.wanted(&state);
            let is_over = |assigned: &Assigned| !wanted.contains_key(assigned);
            let over: Vec<Assigned> = running.keys().copied().filter(is_over).collect();
            for assigned in over {
                // It has ended before another one begins.
                end(running.remove(&assigned)).await;
                let desk = &self.core.shards.consumers;
                desk.set_trouble(assigned.consumer, None);
            }
            for (assigned, sender) in wanted {
                running
                    .entry(assigned)
                    .or_insert_with(|| tokio::spawn(sender.run()));
            }
            if !next_look(&mut changes, &stop).await {
                break;
            }
        }
        for (_, sender) in running {
            end(Some(sender)).await;
        }
    }

    /// The senders that there should be at this node.
    fn wanted(&self, state: &ClusterState) -> HashMap<Assigned, Sender> {
        let Some(term) = leading_term(&self.core) else {
            return HashMap::new();
        };
        let databases = state.databases.values();
        let of_database = databases.flat_map(|database| {
            let consumers = state.consumers.get(&database.id).into_iter().flatten();
            consumers.map(|(name, consumer)| (database.name.as_str(), name, consumer))
        });
        let sender = |(database, name, consumer): (&str, &String, _)| {
            let sender = Sender::new(&self.core, database, name, consumer, term)?;
            let assigned = Assigned {
                consumer: consumer.id,
                resumed: consumer.resumed,
                term,
            };
            Some((assigned, sender))
        };
        of_database.filter_map(sender).collect()
    }
}

/// The term in which this node leads the metadata, if it does.
fn leading_term(core: &Core) -> Option<u64> {
    let leader = core.groups.leader(ShardId::META)?;
    let is_here = leader.node == core.options.node && core.groups.is_leader(ShardId::META);
    is_here.then_some(leader.term)
}

async fn end(sender: Option<JoinHandle<()>>) {
    if let Some(sender) = sender {
        sender.abort();
        // Cancelled, or ended by itself.
        let _ = sender.await;
    }
}
