//! etcd's key-value service, so that it can be measured by the same clients over the same number of connections.

use std::time::Duration;

use bytes::Bytes;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use self::api::kv_client::KvClient;
use self::api::maintenance_client::MaintenanceClient;
use self::api::{PutRequest, RangeRequest, StatusRequest, StatusResponse};
use super::client::{Effect, Failure, Level, Stored};
use super::grpc::{Pool, befallen};

/// Compiled from `etcd.proto`.
#[expect(unreachable_pub, unused_qualifications)]
mod api {
    tonic::include_proto!("etcdserverpb");
}

/// How long a member may take to tell who leads.
const STATUS_TIMEOUT: Duration = Duration::from_secs(2);
/// The end of a range that has none.
const NO_END: Bytes = Bytes::from_static(b"\0");

/// One client over shared connections.
pub(super) struct Client {
    members: Vec<KvClient<Channel>>,
    /// What all keys begin with.
    prefix: String,
    serializable: bool,
}

impl Client {
    pub(super) fn new(pool: &Pool, bucket: &str, level: Level) -> Self {
        Self {
            members: pool.take().into_iter().map(KvClient::new).collect(),
            prefix: format!("{bucket}/"),
            serializable: level == Level::Local,
        }
    }

    fn key(&self, key: &str) -> Bytes {
        Bytes::from([self.prefix.as_str(), key].concat())
    }

    pub(super) async fn read(
        &mut self,
        member: usize,
        key: &str,
    ) -> Result<Option<Stored>, Failure> {
        let request = RangeRequest {
            key: self.key(key),
            serializable: self.serializable,
            ..RangeRequest::default()
        };
        let answer = self.members[member].range(request).await;
        let found = answer.map_err(read_failure)?.into_inner().kvs.pop();
        Ok(found.map(|found| Stored {
            version: u64::try_from(found.version).unwrap_or_default(),
            body: found.value,
        }))
    }

    /// The answer to a put tells no version: 0.
    pub(super) async fn write(
        &mut self,
        member: usize,
        key: &str,
        body: &[u8],
    ) -> Result<u64, Failure> {
        let request = PutRequest {
            key: self.key(key),
            value: Bytes::copy_from_slice(body),
        };
        let answer = self.members[member].put(request).await;
        answer.map(|_| 0).map_err(|status| befallen(&status))
    }

    pub(super) async fn scan(
        &mut self,
        member: usize,
        key: &str,
        limit: u64,
    ) -> Result<u64, Failure> {
        let request = RangeRequest {
            key: self.key(key),
            range_end: NO_END,
            limit: i64::try_from(limit).unwrap_or(i64::MAX),
            serializable: self.serializable,
        };
        let answer = self.members[member].range(request).await;
        Ok(answer.map_err(read_failure)?.into_inner().kvs.len() as u64)
    }
}

/// A read never has an effect.
fn read_failure(status: Status) -> Failure {
    Failure {
        effect: Effect::None,
        ..befallen(&status)
    }
}

/// Which of the members leads, by index; `None`: none does, or it is not among them.
///
/// # Errors
/// No member answers.
pub(super) async fn leader(hosts: &[String]) -> anyhow::Result<Option<usize>> {
    let mut last = anyhow::anyhow!("no member was named");
    let (mut leader, mut ids) = (None, Vec::new());
    for host in hosts {
        match status(host).await {
            Ok(status) => {
                leader = leader.or(Some(status.leader).filter(|leader| *leader != 0));
                ids.push(status.header.map(|header| header.member_id));
            }
            Err(error) => {
                last = error.context(format!("etcd at {host}"));
                ids.push(None);
            }
        }
    }
    if ids.iter().all(Option::is_none) {
        return Err(last);
    }
    Ok(leader.and_then(|leader| ids.iter().position(|id| *id == Some(leader))))
}

/// Whether every member answers and follows the same leader.
pub(super) async fn all_follow(hosts: &[String]) -> bool {
    let mut leaders = Vec::new();
    for host in hosts {
        match status(host).await {
            Ok(status) => leaders.push(status.leader),
            Err(_) => return false,
        }
    }
    leaders.first().is_some_and(|leader| *leader != 0)
        && leaders.windows(2).all(|two| two[0] == two[1])
}

async fn status(host: &str) -> anyhow::Result<StatusResponse> {
    let endpoint = Endpoint::from_shared(format!("http://{host}"))?
        .connect_timeout(STATUS_TIMEOUT)
        .timeout(STATUS_TIMEOUT);
    let mut client = MaintenanceClient::new(endpoint.connect().await?);
    Ok(client.status(StatusRequest {}).await?.into_inner())
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn requests_have_the_field_numbers_of_etcd() {
        let put = PutRequest {
            key: Bytes::from_static(b"k"),
            value: Bytes::from_static(b"v"),
        };
        assert_eq!(put.encode_to_vec(), b"\x0a\x01k\x12\x01v");
        let range = RangeRequest {
            key: Bytes::from_static(b"k"),
            range_end: NO_END,
            limit: 3,
            serializable: true,
        };
        assert_eq!(
            range.encode_to_vec(),
            b"\x0a\x01k\x12\x01\0\x18\x03\x38\x01"
        );
    }

    #[tokio::test]
    async fn a_member_that_cannot_be_reached_is_named() {
        // Port 1 of loopback is not listened on.
        let error = leader(&["127.0.0.1:1".to_owned()]).await.unwrap_err();
        assert!(
            format!("{error:#}").contains("etcd at 127.0.0.1:1"),
            "{error:#}"
        );
    }
}
