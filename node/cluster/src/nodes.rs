//! The nodes that the cluster knows: what they are called, where they are reached, how much they can carry.
//!
//! Lacks: whether they are alive. That is each observer's own knowledge, never replicated.

use proto::NodeId;
use serde::{Deserialize, Serialize};

use crate::placement::{NodeInfo, WEIGHT_MAX};

/// Weight of a node that states none.
pub const DEFAULT_WEIGHT: u32 = 1;

/// What is known of a node. Its id, random and from its disk, is the key it is found under; its addresses may change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// For people; need not be unique.
    pub name: String,
    /// What fails together with it; empty if it states none.
    pub zone: String,
    /// Where clients reach it, `host:port`.
    pub client_address: String,
    /// Where the other nodes reach it, `host:port`.
    pub peer_address: String,
    /// Capacity relative to the others, from 1 to [`WEIGHT_MAX`].
    pub weight: u32,
}

impl Node {
    /// The node of a command. A weight of 0, which is what an unset one looks like, is `default_weight`.
    ///
    /// # Errors
    /// Why the command cannot be accepted: no id, or a weight above [`WEIGHT_MAX`].
    pub fn from_command(
        node: &proto::log::Node,
        default_weight: u32,
    ) -> Result<(NodeId, Self), String> {
        let proto::log::Node {
            id,
            name,
            zone,
            client_address,
            peer_address,
            weight,
        } = node.clone();
        if id == 0 {
            return Err(format!("node {name:?} has no id"));
        }
        if weight > WEIGHT_MAX {
            return Err(format!(
                "weight {weight} of node {name:?} is above {WEIGHT_MAX}"
            ));
        }
        let weight = if weight == 0 { default_weight } else { weight };
        Ok((
            NodeId(id),
            Self {
                name,
                zone,
                client_address,
                peer_address,
                weight,
            },
        ))
    }

    /// As commands and messages between nodes carry it.
    pub fn to_command(&self, id: NodeId) -> proto::log::Node {
        proto::log::Node {
            id: id.0,
            name: self.name.clone(),
            zone: self.zone.clone(),
            client_address: self.client_address.clone(),
            peer_address: self.peer_address.clone(),
            weight: self.weight,
        }
    }

    /// What placement needs to know of it.
    pub fn placement_info(&self, id: NodeId) -> NodeInfo {
        NodeInfo {
            id,
            zone: self.zone.clone(),
            weight: self.weight,
        }
    }
}
