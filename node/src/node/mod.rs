//! One node's whole life: what is built in which order, and stopped in the reverse.
//!
//! Start: data directory → connections to peers → groups → service → peer port → stored replicas → client and admin
//! ports → jobs. A node that belongs to no cluster yet does all of this too, without replicas: `/healthz` answers, and
//! `cluster init` finds it.
//!
//! Stop: not ready → hand leaders away, while clients are told to go elsewhere → refuse new connections and let requests end → stop the
//! groups → flush → close the log. A second signal ends the process at once.

mod audit;
mod disk;
mod integrity;
mod join;
mod peer_port;
mod ports;
mod relief;
mod repair;
mod replicas;
mod scrub;
mod seals;
mod stop;
mod watchdog;

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use cluster::machine::ClusterMachine;
use futures::future::BoxFuture;
use proto::peer::peer_server::PeerServer;
use raft::transport::ForwardHandler;
use raft::transport::client::Peers;
use raft::transport::dial::{Dialer, Plain};
use raft::transport::server::PeerService;
use raft::{Applier, Host, HostParts, Pool};
use service::audit::{Action, Event};
use service::clock::SystemClock;
use service::ports::Members as _;
use service::{Ports, Service};
use storage::Storage;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::audit::{Kept, Log};
use crate::cli::exit::{Exit, Status};
use crate::config::{Config, LogFormat, Rates};
use crate::identity::Registry;
use crate::mail::{Delivery, Spool};
use crate::tls::{Guard, Keyring, Port, Secure};
use crate::webhooks::Webhooks;
use crate::{http, telemetry};

use self::disk::Disk;
use self::integrity::Integrity;
use self::join::Joining;
use self::repair::Repair;
use self::replicas::Replicas;
use self::seals::Seals;

/// Threads that build and install snapshots.
const DISK_THREADS: usize = 1;

/// Threads that apply entries: on a small machine one, which then finds the work of many shards to do at once.
fn apply_threads() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (cores / 2).clamp(1, 8)
}

/// Admin connections open at once.
const ADMIN_CONNECTIONS_MAX: usize = 64;

/// Time for running requests to end when the node stops.
const DRAIN: Duration = Duration::from_secs(5);

/// How long a starting node waits for the others to say which cluster they belong to.
const DESCRIBE_TIME: Duration = Duration::from_secs(1);

/// Runs a node until SIGTERM or Ctrl-C.
///
/// # Errors
/// Before anything is served: a port in use, a data directory that is locked, of another cluster or of a newer format.
/// The message names it.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let mut signals = stop::Signals::catch().context("signal handlers")?;
    let format = match config.telemetry.log_format {
        LogFormat::Text => telemetry::LogFormat::Text,
        LogFormat::Json => telemetry::LogFormat::Json,
    };
    telemetry::init_logging(format, &config.telemetry.log)
        .map_err(|error| Exit::new(Status::Config, error))?;
    let metrics = telemetry::install_metrics().context("metrics")?;
    let keyring = keyring(&config)?;
    let delivery = match config.mail.smtp.host.is_empty() {
        true => None,
        false => Some(Delivery::new(config.spool_dir(), &config.mail.smtp)?),
    };
    let dialer = dialer(keyring.as_ref());

    let client = bind(config.listen.client, "listen.client").await?;
    let peer = bind(config.listen.peer, "listen.peer").await?;
    let admin = bind(config.listen.admin, "listen.admin").await?;

    let storage = open_storage(&config)?;
    check_cluster(&config, &storage, &dialer).await?;
    let stop = CancellationToken::new();
    let log = Log::open(&config.node.data_dir).context("the audit log")?;
    let log = Arc::new(log);
    let node = Node::build(&config, storage, dialer, stop.clone()).await?;
    node.service.note(audit::started(&config));
    tracing::info!(node = %node.host.node(), name = config.node.name, "node is up");

    let guard = |port| Guard::new(port, keyring.clone());
    let peer_server = tokio::spawn(peer_port::serve(
        peer,
        guard(Port::Peer),
        node.peer_service(&config),
        node.stop_peers.clone(),
    ));
    let limits = http_limits(&config);
    let servers = tokio::spawn({
        let client_app = http::client_app(node.service.clone(), limits);
        let info = node_info(&config, &node.host);
        let control = Arc::new(ports::Control(node.host.clone()));
        let root_password = config.security.root_password.clone();
        let admin_app = http::admin::admin_app(
            node.service.clone(),
            metrics.clone(),
            info,
            control,
            root_password,
            Arc::clone(&log),
            node.seals.clone().map(|seals| seals as _),
        );
        let (client_guard, admin_guard) = (guard(Port::Client), guard(Port::Admin));
        let stop = stop.clone();
        let connections = connections(&config);
        async move {
            tokio::join!(
                http::server::serve(
                    client,
                    client_guard,
                    client_app,
                    connections,
                    stop.clone(),
                    DRAIN
                ),
                http::server::serve(
                    admin,
                    admin_guard,
                    admin_app,
                    http::Connections::at_most(ADMIN_CONNECTIONS_MAX),
                    stop,
                    DRAIN
                ),
            );
        }
    });
    let jobs = tokio::spawn(node.service.jobs().run(stop.clone()));
    let replicas = tokio::spawn(Arc::clone(&node.replicas).run(node.service.clone(), stop.clone()));
    let purging = tokio::spawn(node.host.clone().purge_by_size(stop.clone()));
    let disk = tokio::spawn(Arc::clone(&node.disk).watch(node.storage.clone(), stop.clone()));
    let integrity = tokio::spawn(Arc::clone(&node.integrity).run(
        node.service.clone(),
        scrub::Pace {
            bytes_per_s: config.storage.scrub_bytes_per_s(),
            pause: config.storage.scrub_pause(),
        },
        stop.clone(),
    ));
    let certificates = tokio::spawn(follow(keyring, node.service.clone(), stop.clone()));
    // Until all others have ended: they may have something to tell.
    let stop_audit = CancellationToken::new();
    let writer = audit::Writer {
        log,
        service: node.service.clone(),
        node: node.host.node(),
        kept: Kept {
            time: config.audit.kept(),
            bytes: config.audit.node_bytes_max,
        },
    };
    let writer = tokio::spawn(writer.run(stop_audit.clone()));
    let seals = node.seals.clone();
    let resealing = tokio::spawn({
        let stop = stop.clone();
        async move {
            if let Some(seals) = seals {
                seals.run(stop).await;
            }
        }
    });
    let upkeep = tokio::spawn(telemetry::metrics_upkeep(metrics, stop.clone()));
    let mails = delivery.map(|delivery| tokio::spawn(delivery.run(stop.clone())));
    let gauges = tokio::spawn(stop::gauges(
        node.storage.clone(),
        node.host.clone(),
        stop.clone(),
    ));

    let watchdog = watchdog::Watchdog {
        logs: node.storage.logs.clone(),
        host: node.host.clone(),
        peers: node.peers.clone(),
        service: node.service.clone(),
        stall: Duration::from_millis(config.storage.log_stall_ms),
    };
    let watchdog = tokio::spawn(watchdog.run(stop.clone()));
    let relief = relief::Relief {
        disk: Arc::clone(&node.disk),
        host: node.host.clone(),
        peers: node.peers.clone(),
        service: node.service.clone(),
    };
    let relief = tokio::spawn(relief.run(stop.clone()));

    signals.received().await;
    tracing::info!("stopping");
    tokio::spawn(async move {
        signals.received().await;
        tracing::warn!("a second signal: the process ends at once");
        std::process::exit(i32::from(Status::Error as u8));
    });
    stop::withdraw(&node.host, &node.peers, &node.service).await;
    stop.cancel();
    let _ = tokio::join!(
        servers,
        jobs,
        replicas,
        purging,
        disk,
        integrity,
        resealing,
        certificates,
        upkeep,
        gauges,
        watchdog,
        relief
    );
    if let Some(mails) = mails {
        let _ = mails.await;
    }
    stop_audit.cancel();
    let _ = writer.await;
    // What came back meanwhile.
    stop::hand_over(&node.host, &node.peers, &node.service).await;
    node.host.shutdown().await;
    node.stop_peers.cancel();
    let _ = peer_server.await;
    stop::close(node.storage).await;
    tracing::info!("stopped");
    Ok(())
}

/// The parts of a running node that outlive their building.
struct Node {
    storage: Storage,
    host: Host,
    peers: Peers,
    service: Service,
    replicas: Arc<Replicas>,
    joining: Arc<Joining>,
    disk: Arc<Disk>,
    integrity: Arc<Integrity>,
    /// `None`: this node does not seal its disk.
    seals: Option<Arc<Seals>>,
    /// Ends the outgoing connections; after the groups, which still talk while they stop.
    stop_peers: CancellationToken,
}

impl Node {
    async fn build(
        config: &Config,
        storage: Storage,
        dialer: Dialer,
        stop: CancellationToken,
    ) -> anyhow::Result<Self> {
        let id = storage.logs.directory().node_id();
        let stop_peers = CancellationToken::new();
        let peers = Peers::new(id, Arc::clone(&dialer), stop_peers.clone());
        if let Some(cluster) = storage.logs.directory().cluster_id() {
            peers.set_cluster(&cluster);
        }
        let host = Host::new(HostParts {
            node: id,
            options: raft_options(config),
            logs: storage.logs.clone(),
            applier: Applier::new("larder-apply", apply_threads()).context("apply threads")?,
            pool: Pool::new("larder-disk", DISK_THREADS).context("disk threads")?,
            transport: Arc::new(peers.clone()),
            send_dir: config.node.data_dir.join("sending"),
        })?;
        let machine = ClusterMachine::new();
        let metadata = machine.handle();
        let replicas = Arc::new(Replicas::new(
            storage.clone(),
            host.clone(),
            peers.clone(),
            machine,
            own_node(config, id.0),
            config.node.data_dir.clone(),
        ));
        let seals = storage.sealing.clone().map(|sealing| {
            let config = config.encryption.clone();
            Arc::new(Seals::new(sealing, config, metadata.clone()))
        });
        let started = Instant::now();
        replicas.open_stored().await?;
        let repair = Repair::new(id, metadata.clone(), storage.lost.clone());
        let integrity = Integrity::load(host.clone(), config.node.data_dir.clone(), repair)?;
        replicas.report_start(started.elapsed());
        let joining = Arc::new(Joining::new(
            own_node(config, id.0),
            storage.clone(),
            peers.clone(),
            Arc::clone(&replicas),
        ));
        let options = service::Options {
            node: id,
            seeds: seeds(config),
            dev: config.security.allow_default_password,
            limits: service::Limits {
                body_bytes_max: config.limits.body_bytes_max,
                key_bytes_max: config.limits.key_bytes_max,
                depth_max: config.limits.depth_max,
                metadata_age_max: Duration::from_millis(config.limits.metadata_age_max_ms),
                rights_rows_max: config.limits.rights_rows_max,
                query_rows_max: config.limits.query_rows_max,
                query_results_max: config.limits.query_results_max,
                query_result_bytes_max: config.limits.query_result_bytes_max,
                queries_at_once_max: config.limits.queries_at_once_max,
                audit_kept: config.audit.kept(),
                audit_bytes_max: config.audit.shard_bytes_max,
                signing_key_age_max: Duration::from_secs(
                    u64::from(config.security.signing_key_days) * 24 * 60 * 60,
                ),
                changes_kept: Duration::from_secs(config.changes.retention_hours * 3_600),
                changes_bytes_max: config.changes.retention_mib << 20,
                feeds_max: config.changes.feeds_max,
                live_max: config.live.queries_max,
                live_unanchored_max: config.live.unanchored_max,
                live_window_max: config.live.window_max,
                live_changes_max: config.live.changes_max,
                feed_bytes_max: config.changes.feed_kib << 10,
                webhook_sick_after: Duration::from_secs(config.webhooks.sick_after_s),
                webhook_probe: Duration::from_secs(config.webhooks.probe_s),
                ..service::Limits::default()
            },
            accounts: config.accounts.for_service(),
        };
        let clock = Arc::new(SystemClock::new());
        let insecure = config.security.insecure;
        let webhooks = Webhooks::new(&config.webhooks, insecure, clock.clone())?;
        let disk = Disk::new(config.node.data_dir.clone(), config.storage.reserve_bytes());
        let ports = Ports {
            groups: Arc::new(ports::RaftGroups(host.clone(), Arc::clone(&disk))),
            forward: Arc::new(ports::PeerForward(peers.clone())),
            members: Arc::new(ports::PeerMembers(dialer)),
            metadata,
            identities: Arc::new(Registry::new(config)?),
            clock: clock.clone(),
            mailer: Arc::new(Spool::new(config.spool_dir(), clock)),
            courier: Arc::new(webhooks),
        };
        let service = Service::new(options, ports);
        replicas.announce(service.clone(), stop);
        Ok(Self {
            storage,
            host,
            peers,
            service,
            replicas,
            joining,
            disk,
            integrity,
            seals,
            stop_peers,
        })
    }

    fn peer_service(&self, config: &Config) -> PeerServer<PeerService> {
        let forwards = Arc::new(Forwards(self.service.clone()));
        let joining: Arc<Joining> = Arc::clone(&self.joining);
        PeerService::new(
            self.host.clone(),
            forwards,
            joining,
            config.node.data_dir.join("receiving"),
        )
    }
}

/// Requests that other nodes forwarded here.
struct Forwards(Service);

impl ForwardHandler for Forwards {
    fn handle(&self, body: Bytes) -> BoxFuture<'static, Bytes> {
        let service = self.0.clone();
        Box::pin(async move { service.handle_forward(body).await })
    }
}

fn open_storage(config: &Config) -> anyhow::Result<Storage> {
    let dir = &config.node.data_dir;
    std::fs::create_dir_all(dir).with_context(|| format!("data directory {}", dir.display()))?;
    // Files that were being sent when the node last stopped are of a view that is gone.
    let _ = std::fs::remove_dir_all(dir.join("sending"));
    let options = storage::Options {
        masters: seals::masters(&config.encryption)?,
        ..storage::Options::within(config.storage.memory_bytes())
    };
    let storage = repair::open(dir, &options).map_err(seals::refusal)?;
    storage.logs.on_failure(|error| {
        // Nothing that waits may be answered: after a failed sync it is unknown what is on disk.
        tracing::error!(%error, "the log disk failed; the process ends");
        std::process::exit(i32::from(Status::LogFailed as u8));
    });
    Ok(storage)
}

async fn bind(address: SocketAddr, key: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let hint = match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                "; another process listens there: stop it or change the key"
            }
            _ => "",
        };
        Exit::new(
            Status::Error,
            format_args!("{key} = {address}: {error}{hint}"),
        )
        .into()
    })
}

/// This node's certificates; `None` without TLS.
fn keyring(config: &Config) -> anyhow::Result<Option<Arc<Keyring>>> {
    if config.security.allow_default_password {
        tracing::warn!(
            "root may have the default password (security.allow_default_password): for trying out only"
        );
    }
    if config.security.insecure {
        tracing::warn!(
            "running without TLS and peer authentication (security.insecure): use it in trusted networks only"
        );
        return Ok(None);
    }
    let keyring = Keyring::load(config.tls.clone())
        .map_err(|error| Exit::new(Status::Config, format_args!("[tls]: {error}")))?;
    Ok(Some(Arc::new(keyring)))
}

fn dialer(keyring: Option<&Arc<Keyring>>) -> Dialer {
    match keyring {
        Some(keyring) => Arc::new(Secure(Arc::clone(keyring))),
        None => Arc::new(Plain),
    }
}

async fn follow(keyring: Option<Arc<Keyring>>, service: Service, stop: CancellationToken) {
    let reloaded = move |outcome: &str| {
        service.note(Event::new(Action::CertificatesReloaded).saying(outcome));
    };
    if let Some(keyring) = keyring
        && let Err(error) = keyring.follow(reloaded, stop).await
    {
        tracing::error!(%error, "certificates are not reloaded");
    }
}

/// Refuses to run on the data of one cluster among the nodes of another. Nodes that do not answer say nothing.
async fn check_cluster(config: &Config, storage: &Storage, dialer: &Dialer) -> anyhow::Result<()> {
    let Some(own) = storage.logs.directory().cluster_id() else {
        return Ok(());
    };
    let deadline = Instant::now() + DESCRIBE_TIME;
    let (members, others) = (
        ports::PeerMembers(Arc::clone(dialer)),
        config
            .cluster
            .seeds
            .iter()
            .filter(|seed| **seed != config.peer_address()),
    );
    let described =
        others.map(|seed| async { (seed.clone(), members.describe(seed, deadline).await) });
    for (seed, description) in futures::future::join_all(described).await {
        let Some(theirs) = description
            .ok()
            .and_then(|description| description.cluster_id)
        else {
            continue;
        };
        if theirs != own {
            let dir = config.node.data_dir.display();
            return Err(Exit::new(
                Status::Error,
                format_args!(
                    "the data directory {dir} belongs to cluster {own}, but the node at {seed} to cluster {theirs}: \
                     correct node.data_dir or cluster.seeds, or start with an empty data directory"
                ),
            )
            .into());
        }
    }
    Ok(())
}

fn raft_options(config: &Config) -> raft::Options {
    let millis = Duration::from_millis;
    raft::Options {
        heartbeat: millis(config.raft.heartbeat_ms),
        heartbeat_min_interval: millis(config.raft.heartbeat_min_interval_ms),
        election_min: millis(config.raft.election_min_ms),
        election_max: millis(config.raft.election_max_ms),
        quorum_loss_probe: millis(config.raft.quorum_loss_probe_ms),
        proposals_in_flight_max: config.limits.proposals_in_flight_max,
        log_bytes_max: config.raft.log_bytes_max,
        log_entries_max: config.raft.log_entries_max,
        proposal_bytes_in_flight_max: config.limits.proposal_bytes_in_flight_max,
    }
}

fn http_limits(config: &Config) -> http::Limits {
    http::Limits {
        body_bytes_max: config.limits.body_bytes_max,
        requests_in_flight_max: config.limits.requests_in_flight_max,
        request_bytes_in_flight_max: config.limits.request_bytes_in_flight_max,
        scans_open_max: config.limits.scans_open_max,
        websockets_max: config.limits.websockets_max,
        live_per_socket_max: config.live.per_socket_max,
        plain: config.security.insecure,
        request_time: config.limits.deadline(),
        // Validated.
        trusted_proxies: config.http.proxies().unwrap_or_default().into(),
        rates: rates(&config.rates),
        body_read_time: Duration::from_millis(config.http.body_read_ms),
        ..http::Limits::default()
    }
}

fn connections(config: &Config) -> http::Connections {
    http::Connections {
        per_address_max: config.limits.connections_per_address_max,
        // Validated.
        trusted_proxies: config.http.proxies().unwrap_or_default().into(),
        head_read_time: Duration::from_millis(config.http.head_read_ms),
        ..http::Connections::at_most(config.limits.connections_max)
    }
}

fn rates(config: &Rates) -> http::Rates {
    let second = Duration::from_secs(1);
    let rate = |time: Duration, count, burst| {
        let burst = NonZeroU32::new(burst)?;
        (count > 0).then(|| http::Rate {
            every: time / count,
            burst,
        })
    };
    http::Rates {
        address: rate(second, config.address_per_s, config.address_burst),
        token: rate(second, config.token_per_s, config.token_burst),
        database: rate(second, config.database_per_s, config.database_burst),
        signup: rate(60 * second, config.signup_per_min, config.signup_burst),
    }
}

/// The nodes that found a cluster: the configured ones, or this one alone.
fn seeds(config: &Config) -> Vec<String> {
    match config.cluster.seeds.is_empty() {
        true => vec![config.peer_address()],
        false => config.cluster.seeds.clone(),
    }
}

fn own_node(config: &Config, id: u64) -> proto::log::Node {
    proto::log::Node {
        id,
        name: config.node.name.clone(),
        zone: config.node.zone.clone(),
        client_address: config.client_address(),
        peer_address: config.peer_address(),
        weight: 0,
    }
}

fn node_info(config: &Config, host: &Host) -> http::admin::NodeInfo {
    http::admin::NodeInfo {
        id: host.node().to_string(),
        name: config.node.name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        client: config.client_address(),
        peer: config.peer_address(),
        admin: config.listen.admin.to_string(),
        zone: config.node.zone.clone(),
    }
}
