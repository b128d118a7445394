//! Requests of peers to this node's groups.

use openraft::errors::RaftError;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest,
};
use proto::peer::append_response::Result as AppendResult;
use proto::peer::envelope::Body;
use proto::peer::raft_request::Request;
use proto::peer::raft_response::Response;
use proto::peer::refused::Reason;
use proto::peer::{
    self, AppendRequest, AppendResponse, Beat, BeatResult, BeatsRequest, BeatsResponse,
    RaftRequest, RaftResponse, Refused, TransferResponse, beat_result,
};
use proto::{ReplicaId, ShardId};

use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::time::Instant;

use super::Host;
use super::group::{Group, RaftHandle};
use crate::codec;
use crate::error::{Error, Result};
use crate::type_config::TypeConfig;

/// The part of a heartbeat that the answers of groups which travelled together wait for the slowest of them.
const ANSWER_PART: u32 = 8;

impl Host {
    /// Answers one raft request of a peer: a response, or `Refused` when the addressed replica is not here.
    pub async fn handle(&self, request: RaftRequest) -> Body {
        let shard = ShardId(request.shard);
        let Some(group) = self.addressed(shard, ReplicaId(request.target)) else {
            return refused(
                Reason::NoReplica,
                format!("no replica {} of shard {shard}", request.target),
            );
        };
        let Some(request) = request.request else {
            return refused(Reason::Unspecified, "an empty request".to_owned());
        };
        if matches!(request, Request::Transfer(_)) {
            if self.sound(shard).is_none() {
                return refused(
                    Reason::Stopped,
                    format!("the replica of shard {shard} is quarantined"),
                );
            }
            if self.is_stalled() {
                return refused(Reason::Stopped, "the log disk here stalls".to_owned());
            }
        }
        let raft = group.raft();
        let response = match request {
            Request::Append(request) => append(&group, request).await,
            Request::Vote(request) => vote(raft, request).await,
            Request::PreVote(request) => pre_vote(raft, request).await,
            Request::Transfer(request) => transfer(raft, request).await,
        };
        match response {
            Ok(response) => Body::RaftResponse(RaftResponse {
                response: Some(response),
            }),
            Err(error) => refused(Reason::Stopped, error.to_string()),
        }
    }

    /// Answers the heartbeats of many groups: all that have an answer soon, together.
    pub async fn beats(&self, request: BeatsRequest) -> BeatsResponse {
        let deadline = Instant::now() + self.inner.options.heartbeat / ANSWER_PART;
        let mut results = vec![BeatResult::default(); request.beats.len()];
        let mut answers: FuturesUnordered<_> = request
            .beats
            .into_iter()
            .enumerate()
            .map(|(position, beat)| async move { (position, self.beat(beat).await) })
            .collect();
        while let Ok(Some((position, result))) =
            tokio::time::timeout_at(deadline, answers.next()).await
        {
            results[position].result = result;
        }
        BeatsResponse { results }
    }

    async fn beat(&self, beat: Beat) -> Option<beat_result::Result> {
        let append = AppendRequest {
            vote: beat.vote,
            previous: beat.previous,
            entries: Vec::new(),
            commit: beat.commit,
        };
        let request = RaftRequest {
            shard: beat.shard,
            target: beat.target,
            request: Some(Request::Append(append)),
        };
        match self.handle(request).await {
            Body::RaftResponse(RaftResponse {
                response: Some(Response::Append(response)),
            }) => Some(beat_result::Result::Append(response)),
            Body::Refused(refused) => Some(beat_result::Result::Refused(refused)),
            _ => None,
        }
    }

    pub(super) fn addressed(
        &self,
        shard: ShardId,
        replica: ReplicaId,
    ) -> Option<std::sync::Arc<Group>> {
        // Never another replica of the shard: a replica id is a voter's identity.
        self.group(shard)
            .filter(|group| group.replica_id() == replica)
    }
}

fn refused(reason: Reason, message: String) -> Body {
    Body::Refused(Refused {
        reason: reason.into(),
        message,
    })
}

async fn append(group: &Group, request: AppendRequest) -> Result<Response> {
    let request = AppendEntriesRequest::<TypeConfig> {
        vote: codec::vote_from_proto(request.vote)?,
        prev_log_id: request.previous.map(codec::log_id_from_proto),
        entries: request
            .entries
            .into_iter()
            .map(codec::decode_entry)
            .collect::<Result<_>>()?,
        leader_commit: request.commit.map(codec::log_id_from_proto),
    };
    let response = group.raft().append_entries(request).await;
    let response = response.map_err(stopped)?;
    if !matches!(response, AppendEntriesResponse::HigherVote(_)) {
        group.heard().now();
    }
    let response = match response {
        AppendEntriesResponse::Success => result(AppendResult::Success),
        AppendEntriesResponse::PartialSuccess(matching) => AppendResponse {
            matching: matching.as_ref().map(codec::log_id_to_proto),
            ..result(AppendResult::Partial)
        },
        AppendEntriesResponse::Conflict => result(AppendResult::Conflict),
        AppendEntriesResponse::HigherVote(vote) => AppendResponse {
            vote: Some(codec::vote_to_proto(&vote)),
            ..result(AppendResult::HigherVote)
        },
    };
    Ok(Response::Append(response))
}

fn result(result: AppendResult) -> AppendResponse {
    AppendResponse {
        result: result.into(),
        matching: None,
        vote: None,
    }
}

async fn vote(raft: &RaftHandle, request: peer::VoteRequest) -> Result<Response> {
    vote_response(raft.vote(vote_request(request)?).await.map_err(stopped)?)
}

async fn pre_vote(raft: &RaftHandle, request: peer::VoteRequest) -> Result<Response> {
    vote_response(
        raft.pre_vote(vote_request(request)?)
            .await
            .map_err(stopped)?,
    )
}

fn vote_request(request: peer::VoteRequest) -> Result<VoteRequest<TypeConfig>> {
    Ok(VoteRequest {
        vote: codec::vote_from_proto(request.vote)?,
        last_log_id: request.last.map(codec::log_id_from_proto),
        leadership_transfer: request.leadership_transfer,
    })
}

fn vote_response(response: openraft::raft::VoteResponse<TypeConfig>) -> Result<Response> {
    Ok(Response::Vote(peer::VoteResponse {
        vote: Some(codec::vote_to_proto(&response.vote)),
        granted: response.vote_granted,
        last: response.last_log_id.as_ref().map(codec::log_id_to_proto),
    }))
}

async fn transfer(raft: &RaftHandle, request: peer::TransferRequest) -> Result<Response> {
    let request = TransferLeaderRequest::<TypeConfig>::new(
        codec::vote_from_proto(request.from)?,
        request.to,
        request.last.map(codec::log_id_from_proto),
    );
    let accepted = raft
        .handle_transfer_leader(request)
        .await
        .map_err(|fatal| Error::Refused(fatal.to_string()))?
        .is_ok();
    Ok(Response::Transfer(TransferResponse { accepted }))
}

fn stopped(error: RaftError<TypeConfig>) -> Error {
    Error::Refused(error.to_string())
}
