//! Between openraft's types, the storage layer's and the log format. The only place that knows all three.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use openraft::{EntryPayload, Membership as RaftMembership};
use prost::Message as _;
use proto::NodeId;
use proto::log::{self, entry::Payload};
use storage::ids;

use crate::error::{Error, Result};
use crate::type_config::{
    Command, Entry, LeaderId, LogId, Member, Membership, StoredMembership, Vote,
};

pub(crate) fn log_id_to_storage(id: &LogId) -> ids::LogId {
    ids::LogId {
        term: id.leader_id.term,
        leader: id.leader_id.node_id,
        index: id.index,
    }
}

pub(crate) fn log_id_from_storage(id: ids::LogId) -> LogId {
    LogId {
        leader_id: LeaderId {
            term: id.term,
            node_id: id.leader,
        },
        index: id.index,
    }
}

pub(crate) fn log_id_to_proto(id: &LogId) -> log::LogId {
    log::LogId {
        term: id.leader_id.term,
        leader: id.leader_id.node_id,
        index: id.index,
    }
}

pub(crate) fn log_id_from_proto(id: log::LogId) -> LogId {
    LogId {
        leader_id: LeaderId {
            term: id.term,
            node_id: id.leader,
        },
        index: id.index,
    }
}

pub(crate) fn vote_to_storage(vote: &Vote) -> ids::Vote {
    ids::Vote {
        term: vote.leader_id.term,
        replica: vote.leader_id.node_id,
        committed: vote.committed,
    }
}

pub(crate) fn vote_from_storage(vote: ids::Vote) -> Vote {
    Vote {
        leader_id: LeaderId {
            term: vote.term,
            node_id: vote.replica,
        },
        committed: vote.committed,
    }
}

pub(crate) fn vote_to_proto(vote: &Vote) -> log::Vote {
    log::Vote {
        term: vote.leader_id.term,
        replica: vote.leader_id.node_id,
        committed: vote.committed,
    }
}

/// # Errors
/// [`Error::Wire`]: the message carries no vote.
pub(crate) fn vote_from_proto(vote: Option<log::Vote>) -> Result<Vote> {
    let vote = vote.ok_or(Error::Wire("a vote is missing"))?;
    Ok(Vote {
        leader_id: LeaderId {
            term: vote.term,
            node_id: vote.replica,
        },
        committed: vote.committed,
    })
}

pub(crate) fn membership_to_proto(membership: &Membership) -> log::Membership {
    log::Membership {
        configs: membership
            .get_joint_config()
            .iter()
            .map(|set| log::VoterSet {
                replicas: set.iter().copied().collect(),
            })
            .collect(),
        nodes: membership
            .nodes()
            .map(|(replica, member)| (*replica, member.node.0))
            .collect(),
    }
}

/// # Errors
/// [`Error::Wire`]: a voter without a node.
pub(crate) fn membership_from_proto(membership: log::Membership) -> Result<Membership> {
    let configs: Vec<BTreeSet<u64>> = membership
        .configs
        .into_iter()
        .map(|set| set.replicas.into_iter().collect())
        .collect();
    let nodes: BTreeMap<u64, Member> = membership
        .nodes
        .into_iter()
        .map(|(replica, node)| (replica, Member { node: NodeId(node) }))
        .collect();
    if configs.is_empty() && nodes.is_empty() {
        return Ok(Membership::default());
    }
    RaftMembership::new(configs, nodes).map_err(|_| Error::Wire("a membership is malformed"))
}

/// The stored form of the membership at `log_id`, as [`storage::machine::Applied`] holds it.
///
/// # Errors
/// [`Error::Wire`]: the bytes are not a membership.
pub(crate) fn stored_membership(
    stored: Option<&(Option<ids::LogId>, Bytes)>,
) -> Result<StoredMembership> {
    let Some((log_id, bytes)) = stored else {
        return Ok(StoredMembership::default());
    };
    let membership = log::Membership::decode(bytes.clone())
        .map_err(|_| Error::Wire("a stored membership does not decode"))?;
    Ok(StoredMembership::new(
        log_id.map(log_id_from_storage),
        membership_from_proto(membership)?,
    ))
}

/// One log entry as it lies on disk and travels: an encoded `larder.log.v1.Entry`.
pub(crate) fn encode_entry(entry: &Entry) -> Bytes {
    let payload = match &entry.payload {
        EntryPayload::Blank => None,
        EntryPayload::Normal(command) if !command.entry.is_empty() => return command.entry.clone(),
        EntryPayload::Normal(command) => Some(Payload::Command(command.bytes.clone())),
        EntryPayload::Membership(membership) => {
            Some(Payload::Membership(membership_to_proto(membership)))
        }
    };
    Bytes::from(
        log::Entry {
            id: Some(log_id_to_proto(&entry.log_id)),
            payload,
        }
        .encode_to_vec(),
    )
}

/// # Errors
/// [`Error::Wire`]: not an entry, or an entry without an id.
pub(crate) fn decode_entry(bytes: Bytes) -> Result<Entry> {
    let entry = log::Entry::decode(bytes.clone())
        .map_err(|_| Error::Wire("a log entry does not decode"))?;
    let log_id = log_id_from_proto(entry.id.ok_or(Error::Wire("a log entry has no id"))?);
    let payload = match entry.payload {
        None => EntryPayload::Blank,
        Some(Payload::Command(command)) => EntryPayload::Normal(Command {
            bytes: command,
            entry: bytes,
        }),
        Some(Payload::Membership(membership)) => {
            EntryPayload::Membership(membership_from_proto(membership)?)
        }
    };
    Ok(Entry { log_id, payload })
}

/// The entry as the state machine takes it.
pub(crate) fn machine_entry(entry: Entry) -> storage::machine::Entry {
    let id = log_id_to_storage(&entry.log_id);
    let payload = match entry.payload {
        EntryPayload::Blank => storage::machine::Payload::Blank,
        EntryPayload::Normal(command) => storage::machine::Payload::Command(command.bytes),
        EntryPayload::Membership(membership) => storage::machine::Payload::Membership(Bytes::from(
            membership_to_proto(&membership).encode_to_vec(),
        )),
    };
    storage::machine::Entry { id, payload }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(payload: EntryPayload<Command, u64, Member>) -> Entry {
        Entry {
            log_id: log_id_from_storage(ids::LogId {
                term: 3,
                leader: 7,
                index: 11,
            }),
            payload,
        }
    }

    #[test]
    fn entries_come_back_and_are_encoded_once() {
        let command = EntryPayload::Normal(Command::proposed(Bytes::from_static(b"set")));
        let membership = membership_from_proto(log::Membership {
            configs: vec![log::VoterSet {
                replicas: vec![1, 2],
            }],
            nodes: [(1, 10), (2, 20), (3, 30)].into(),
        });
        let membership = EntryPayload::Membership(membership.expect("valid"));
        for payload in [EntryPayload::Blank, command, membership] {
            let sent = entry(payload);
            let bytes = encode_entry(&sent);
            let back = decode_entry(bytes.clone()).expect("decodes");
            assert_eq!(back, sent);
            assert_eq!(encode_entry(&back), bytes);
        }
    }

    #[test]
    fn the_bytes_that_were_read_are_the_bytes_that_are_sent() {
        let bytes = encode_entry(&entry(EntryPayload::Normal(Command::proposed(
            Bytes::from_static(b"set"),
        ))));
        let back = decode_entry(bytes.clone()).expect("decodes");
        assert_eq!(encode_entry(&back).as_ptr(), bytes.as_ptr());
    }

    #[test]
    fn malformed_entries_are_refused() {
        assert!(decode_entry(Bytes::from_static(b"\xff\xff")).is_err());
        assert!(decode_entry(Bytes::new()).is_err());
    }
}
