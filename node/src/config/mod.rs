//! The node's configuration: every key, its default and its unit, in one place.
//!
//! Later wins: defaults here, then the TOML file, then the environment (`LARDER_<SECTION>__<KEY>`). Unknown keys are
//! refused, and [`Config::validate`] names the rule that a combination breaks. Settings are data: clocks, engines and
//! transports are never configured here. `configs/reference.toml` shows each key with a sentence.

pub mod accounts;
mod identity;
pub mod load;
mod master_key;
mod memory;
pub mod secret;
pub mod validate;
mod webhooks;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use accounts::{MailEncryption, Smtp};
pub use identity::{ClientAuth, DEFAULT_DATABASE, OauthProvider, TrustedIssuer};
pub use load::Error;
pub use master_key::{MasterKeySource, MasterKeySourceError};
pub use secret::{Secret, SecretError};
pub use validate::Rule;
pub use webhooks::Webhooks;

/// Everything that `larder start` can be told.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `[node]`: what this node is called and where its data lies.
    pub node: Node,
    /// `[listen]`: the three listeners.
    pub listen: Listen,
    /// `[advertise]`: the addresses that others use, where they differ from `[listen]`.
    pub advertise: Advertise,
    /// `[cluster]`: how to find the other nodes.
    pub cluster: Cluster,
    /// `[security]`.
    pub security: Security,
    /// `[oauth.<name>]`: providers that users log in with.
    pub oauth: BTreeMap<String, OauthProvider>,
    /// `[tls]`: certificates and keys.
    pub tls: Tls,
    /// `[encryption]`: of what lies on this node's disk.
    pub encryption: Encryption,
    /// `[accounts]`: how users register.
    pub accounts: accounts::Accounts,
    /// `[mail]`: where their mails go.
    pub mail: accounts::Mail,
    /// `[limits]`: past each of them a request is refused with no effect.
    pub limits: Limits,
    /// `[rates]`: how often somebody may ask.
    pub rates: Rates,
    /// `[http]`: what stands before the client port.
    pub http: Http,
    /// `[audit]`: what audit logs keep.
    pub audit: Audit,
    /// `[changes]`: how long change events are kept, and who may read along.
    pub changes: Changes,
    /// `[webhooks]`: where consumers may have changes sent to.
    pub webhooks: Webhooks,
    /// `[live]`: real-time queries.
    pub live: Live,
    /// `[storage]`: memory and disk of the two databases.
    pub storage: Storage,
    /// `[raft]`: timings, the same on every node.
    pub raft: Raft,
    /// `[telemetry]`: logs.
    pub telemetry: Telemetry,
}

/// `[node]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Node {
    /// A name for people. The identity is the random id in the data directory.
    pub name: String,
    /// The folder of both databases. One node per folder.
    pub data_dir: PathBuf,
    /// Replicas of a shard go to distinct zones first. Empty: no zone.
    pub zone: String,
}

/// `[listen]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Listen {
    /// HTTP and gRPC of clients.
    pub client: SocketAddr,
    /// gRPC between nodes.
    pub peer: SocketAddr,
    /// Metrics and the admin API.
    pub admin: SocketAddr,
}

/// `[advertise]`: `host:port`. Absent: the listen address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Advertise {
    /// Where clients reach this node.
    pub client: Option<String>,
    /// Where the other nodes reach this node.
    pub peer: Option<String>,
}

/// `[cluster]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cluster {
    /// Peer addresses (`host:port`) of nodes to start from; the own one may be among them.
    pub seeds: Vec<String>,
}

/// `[security]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Security {
    /// No TLS and no peer authentication.
    pub insecure: bool,
    /// `cluster init` accepts the password `root` for root. `larder dev` writes it; no other cluster should.
    pub allow_default_password: bool,
    /// What `cluster init` makes root's password if the request brings none.
    pub root_password: Secret,
    /// Whose JWTs count as log-ins.
    pub trusted_issuers: Vec<TrustedIssuer>,
    /// After so many days another key signs tokens; those of before are good for as long as they would have been.
    pub signing_key_days: u32,
}

/// `[tls]`. All files are PEM; the first three are needed unless `security.insecure`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// Certificates of the cluster's CA, which alone vouches for nodes; more than one while it is being changed.
    pub ca: PathBuf,
    /// This node's certificate, with what lies between it and the CA.
    pub certificate: PathBuf,
    /// The key of `certificate`.
    pub key: Secret,
    /// Another certificate for the client port, say one that browsers trust. Empty: `certificate`.
    pub client_certificate: PathBuf,
    /// The key of `client_certificate`.
    pub client_key: Secret,
    /// The client port serves only those with a certificate of the CA.
    pub clients_need_certificate: bool,
    /// The admin port serves only those with a certificate of the CA.
    pub admins_need_certificate: bool,
}

impl Tls {
    /// The keys that must be set and are not.
    pub fn missing(&self) -> Vec<&'static str> {
        [
            ("ca", !self.ca.as_os_str().is_empty()),
            ("certificate", !self.certificate.as_os_str().is_empty()),
            ("key", self.key.is_set()),
        ]
        .into_iter()
        .filter_map(|(key, is_set)| (!is_set).then_some(key))
        .collect()
    }
}

/// `[encryption]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Encryption {
    /// The key that wraps this node's data keys. Not set: nothing is sealed.
    pub master_key: MasterKeySource,
    /// The one before it: tried at a start where `master_key` does not fit, and replaced by it.
    pub previous_master_key: MasterKeySource,
    /// How fast stored values are rewritten with new data keys, in MiB a second.
    pub rewrite_mib_per_s: usize,
}

/// `[limits]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Largest request body, in bytes.
    pub body_bytes_max: usize,
    /// Longest document key after decoding, in bytes of UTF-8.
    pub key_bytes_max: usize,
    /// Deepest nesting of a document.
    pub depth_max: usize,
    /// Client requests being served at once.
    pub requests_in_flight_max: usize,
    /// Raft proposals waiting for their outcome at once.
    pub proposals_in_flight_max: usize,
    /// Bytes of all proposals of this node that wait for their outcome at once.
    pub proposal_bytes_in_flight_max: usize,
    /// Bytes of request bodies held at once.
    pub request_bytes_in_flight_max: usize,
    /// Scans and streamed lists open at once.
    pub scans_open_max: usize,
    /// WebSockets open at once.
    pub websockets_max: usize,
    /// Documents that a query may look at in one shard before it is refused.
    pub query_rows_max: usize,
    /// Documents in one result of a query.
    pub query_results_max: usize,
    /// Bytes of documents in one result of a query.
    pub query_result_bytes_max: usize,
    /// Queries at work at once; further ones wait.
    pub queries_at_once_max: usize,
    /// Client connections open at once, each of about 20 KiB; further ones wait in the kernel's queue.
    pub connections_max: usize,
    /// Of them, those of one client address (IPv6: /64); further ones are closed at once.
    pub connections_per_address_max: usize,
    /// How long ago the metadata must have been confirmed for rights to be judged by it, in milliseconds.
    pub metadata_age_max_ms: u64,
    /// Members of roles, roles, and users whose sessions ended, together, of one database; past it no token of it is judged.
    pub rights_rows_max: usize,
    /// How long a request may take, retries and forwards included, in milliseconds.
    pub deadline_ms: u64,
}

/// `[rates]`: requests per second (or minute), and how many may come at once; a rate of 0: no limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rates {
    /// Requests of one client address (IPv6: /64) in a second.
    pub address_per_s: u32,
    /// How many of them may come at once.
    pub address_burst: u32,
    /// Requests with one token in a second.
    pub token_per_s: u32,
    /// How many of them may come at once.
    pub token_burst: u32,
    /// Requests to one database in a second.
    pub database_per_s: u32,
    /// How many of them may come at once.
    pub database_burst: u32,
    /// Registrations and password resets of one client address in a minute.
    pub signup_per_min: u32,
    /// How many of them may come at once.
    pub signup_burst: u32,
}

/// `[http]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// Addresses, or networks as `address/length`, whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<String>,
    /// Time for a request head to arrive, and for an idle HTTP/1.1 connection to send the next, in milliseconds.
    pub head_read_ms: u64,
    /// Time for a request body to arrive, in milliseconds.
    pub body_read_ms: u64,
}

/// `[audit]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Audit {
    /// How long records are kept, in days; the same on every node.
    pub kept_days: u64,
    /// Bytes of the log of one shard, past which its oldest records leave earlier; the same on every node.
    pub shard_bytes_max: u64,
    /// Bytes of this node's own log, past which its oldest files leave earlier.
    pub node_bytes_max: u64,
}

/// `[changes]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Changes {
    /// How long change events are kept, in hours.
    pub retention_hours: u64,
    /// Change events that a shard keeps at most, in MiB.
    pub retention_mib: u64,
    /// Feeds open at once.
    pub feeds_max: usize,
    /// What a feed holds of what its reader has not taken yet, in KiB.
    pub feed_kib: usize,
}

/// `[live]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Live {
    /// Real-time queries open at once.
    pub queries_max: usize,
    /// Of them, those of one WebSocket.
    pub per_socket_max: usize,
    /// Of them, those of one bucket that no value of a field leads to.
    pub unanchored_max: usize,
    /// Offset and limit of one together.
    pub window_max: usize,
    /// Changes that wait for the reader of one.
    pub changes_max: usize,
}

/// `[storage]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Storage {
    /// Memory of both databases and of the log tails together, in MiB; shared out as `storage::memory` says.
    pub memory_mib: usize,
    /// Free space of the data directory's disk below which writes are refused, in MiB.
    pub reserve_mib: usize,
    /// How fast stored data is read again to find rot, in MiB a second; 0: never.
    pub scrub_mib_per_s: usize,
    /// Between the end of one such reading and the next, in seconds.
    pub scrub_pause_s: u64,
    /// A log write under way for longer is a stalled disk: the node gives its leaders away. In milliseconds.
    pub log_stall_ms: u64,
}

/// `[raft]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Raft {
    /// Between two heartbeats; also the time-out of an append, in milliseconds.
    pub heartbeat_ms: u64,
    /// Heartbeats that a read asks for come no closer than this, in milliseconds.
    pub heartbeat_min_interval_ms: u64,
    /// Shortest silence after which a follower stands for election, in milliseconds.
    pub election_min_ms: u64,
    /// Longest such silence; also the leader's lease, in milliseconds.
    pub election_max_ms: u64,
    /// A leader that heard no quorum this long probes for one, in milliseconds.
    pub quorum_loss_probe_ms: u64,
    /// Logs of all shards of this node on disk; each has an equal share, past which it is purged. In bytes.
    pub log_bytes_max: u64,
    /// Entries of one shard's log, past which it is purged; 0: only bytes count.
    pub log_entries_max: u64,
}

/// `[telemetry]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Telemetry {
    /// A level, or a filter such as `info,raft=debug`.
    pub log: String,
    /// The form of log lines.
    pub log_format: LogFormat,
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

const MIB: usize = 1024 * 1024;

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

impl Default for Node {
    fn default() -> Self {
        Self {
            name: "n1".to_owned(),
            data_dir: PathBuf::from("/var/lib/larder"),
            zone: String::new(),
        }
    }
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            client: loopback(7400),
            peer: loopback(7401),
            admin: loopback(7402),
        }
    }
}

impl Default for Encryption {
    fn default() -> Self {
        Self {
            master_key: MasterKeySource::default(),
            previous_master_key: MasterKeySource::default(),
            rewrite_mib_per_s: 8,
        }
    }
}

impl Default for Security {
    fn default() -> Self {
        Self {
            insecure: false,
            allow_default_password: false,
            root_password: Secret::default(),
            trusted_issuers: Vec::new(),
            signing_key_days: 30,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes_max: MIB,
            key_bytes_max: 1024,
            depth_max: 100,
            requests_in_flight_max: 1024,
            proposals_in_flight_max: 1024,
            proposal_bytes_in_flight_max: 64 * MIB,
            request_bytes_in_flight_max: 64 * MIB,
            scans_open_max: 128,
            websockets_max: 2_000,
            query_rows_max: 100_000,
            query_results_max: 10_000,
            query_result_bytes_max: 16 * MIB,
            queries_at_once_max: 32,
            connections_max: 4 * 1024,
            connections_per_address_max: 2 * 1024,
            metadata_age_max_ms: 3_000,
            rights_rows_max: 1_000_000,
            deadline_ms: 5_000,
        }
    }
}

impl Default for Rates {
    fn default() -> Self {
        Self {
            address_per_s: 0,
            address_burst: 1_000,
            token_per_s: 0,
            token_burst: 1_000,
            database_per_s: 0,
            database_burst: 10_000,
            signup_per_min: 60,
            signup_burst: 60,
        }
    }
}

impl Default for Http {
    fn default() -> Self {
        Self {
            trusted_proxies: Vec::new(),
            head_read_ms: 75_000,
            body_read_ms: 30_000,
        }
    }
}

impl Default for Audit {
    fn default() -> Self {
        Self {
            kept_days: 90,
            shard_bytes_max: 64 * MIB as u64,
            node_bytes_max: 256 * MIB as u64,
        }
    }
}

impl Default for Live {
    fn default() -> Self {
        Self {
            queries_max: 20_000,
            per_socket_max: 100,
            unanchored_max: 1_000,
            window_max: 500,
            changes_max: 1_000,
        }
    }
}

impl Default for Changes {
    fn default() -> Self {
        Self {
            retention_hours: 24,
            retention_mib: 512,
            feeds_max: 1_000,
            feed_kib: 1_024,
        }
    }
}

impl Default for Storage {
    fn default() -> Self {
        Self {
            memory_mib: memory::DEFAULT_MIB,
            reserve_mib: 256,
            scrub_mib_per_s: 4,
            scrub_pause_s: 60,
            log_stall_ms: 500,
        }
    }
}

impl Default for Raft {
    fn default() -> Self {
        Self {
            heartbeat_ms: 150,
            heartbeat_min_interval_ms: 75,
            election_min_ms: 400,
            election_max_ms: 700,
            quorum_loss_probe_ms: 1_400,
            log_bytes_max: 512 * MIB as u64,
            log_entries_max: 0,
        }
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            log: "info".to_owned(),
            log_format: LogFormat::Text,
        }
    }
}

impl Encryption {
    /// The rate of rewriting in bytes a second.
    pub fn rewrite_bytes_per_s(&self) -> usize {
        self.rewrite_mib_per_s.saturating_mul(MIB)
    }
}

impl Limits {
    /// How long a request may take.
    pub fn deadline(&self) -> Duration {
        Duration::from_millis(self.deadline_ms)
    }
}

impl Http {
    /// The proxies as networks.
    ///
    /// # Errors
    /// The first that is neither an address nor a network.
    pub fn proxies(&self) -> Result<Vec<IpNet>, String> {
        let net = |text: &String| {
            let net = text.parse::<IpNet>().ok();
            net.or_else(|| Some(text.parse::<IpAddr>().ok()?.into()))
                .ok_or_else(|| text.clone())
        };
        self.trusted_proxies.iter().map(net).collect()
    }
}

impl Audit {
    /// How long records are kept.
    pub fn kept(&self) -> Duration {
        Duration::from_secs(self.kept_days.saturating_mul(24 * 60 * 60))
    }
}

impl Storage {
    /// The memory budget in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.memory_mib.saturating_mul(MIB)
    }

    /// The reserve in bytes.
    pub fn reserve_bytes(&self) -> u64 {
        (self.reserve_mib as u64).saturating_mul(MIB as u64)
    }

    /// The scrub's rate in bytes a second.
    pub fn scrub_bytes_per_s(&self) -> usize {
        self.scrub_mib_per_s.saturating_mul(MIB)
    }

    /// Between two scrubs.
    pub fn scrub_pause(&self) -> Duration {
        Duration::from_secs(self.scrub_pause_s)
    }
}

impl Config {
    /// The `host:port` under which clients reach this node.
    pub fn client_address(&self) -> String {
        self.advertise
            .client
            .clone()
            .unwrap_or_else(|| self.listen.client.to_string())
    }

    /// The `host:port` under which the other nodes reach this node.
    pub fn peer_address(&self) -> String {
        self.advertise
            .peer
            .clone()
            .unwrap_or_else(|| self.listen.peer.to_string())
    }
}
