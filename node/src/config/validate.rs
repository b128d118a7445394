//! What must hold between the values of a configuration. Each broken rule has a variant that carries both values.

use std::net::SocketAddr;

use super::{Changes, Config, Encryption, Limits, Live, Raft, Rates, Storage};

/// Above it a single document would fill Raft messages and apply batches (4 MiB) several times over.
const BODY_BYTES_CEILING: usize = 16 * 1024 * 1024;
/// A key is part of every row that concerns the document.
const KEY_BYTES_CEILING: usize = 4096;
/// A semaphore takes more, memory does not: each query may hold a result and pages of all shards.
const QUERIES_CEILING: usize = 65_536;
/// More than any machine holds; counted in permits, which have an end.
const BYTES_CEILING: usize = 1 << 40;
/// More than any node answers; the time between two requests stays above a microsecond.
const RATE_CEILING: usize = 1_000_000;
/// Below it ordinary mobile networks fail; above it whoever says nothing holds a connection for hours.
const READ_FLOOR_MS: usize = 500;
const READ_CEILING_MS: usize = 3_600_000;
/// Some thousand records: less would be gone before anybody looks.
const AUDIT_BYTES_FLOOR: u64 = 1 << 20;
/// JSON is walked recursively; deeper nesting would need more than a worker's stack.
const DEPTH_CEILING: usize = 120;
/// Smaller logs would be purged all the time, and every pause of a follower would cost it a snapshot.
const LOG_BYTES_FLOOR: u64 = 1 << 20;
/// One batch of documents must fit, with what surrounds it.
const PROPOSAL_BYTES_FLOOR: usize = 8 * 1024 * 1024;
/// A metadata group without a leader for less is an ordinary failover.
const METADATA_AGE_FLOOR_MS: usize = 1_000;
/// Least rows of rights of a database.
const RIGHTS_ROWS_FLOOR: usize = 100;
/// Keys are kept for the long life of sessions, 30 days, and their number is bounded.
const SIGNING_KEY_DAYS_FLOOR: usize = 3;
/// Ten years: more is a slip.
const SIGNING_KEY_DAYS_CEILING: usize = 3_650;
/// Ten years.
const RETENTION_HOURS_CEILING: usize = 10 * 366 * 24;
/// A TiB in each shard: more is a slip.
const RETENTION_MIB_CEILING: usize = 1024 * 1024;
/// A MiB each.
const FEEDS_CEILING: usize = 65_536;
/// Real-time queries, and what one of them may take: each limit is also one of memory.
const LIVE_CEILING: usize = 1_000_000;
/// KiB. A page of a shard is never smaller than 16; above the ceiling a page is as large as it gets in any shard count.
const FEED_KIB_FLOOR: usize = 16;
const FEED_KIB_CEILING: usize = 64 * 1024;
/// Busy disks sync in tens of milliseconds.
const LOG_STALL_FLOOR_MS: usize = 100;
/// A week: rot that nobody looks for that long may by then be on a second replica too.
const SCRUB_PAUSE_S_CEILING: usize = 7 * 24 * 3_600;
/// What storage needs at the least.
pub(super) const MEMORY_MIB_FLOOR: usize = storage::memory::BUDGET_BYTES_MIN >> 20;
/// A TiB: more is a slip.
const MEMORY_MIB_CEILING: usize = 1024 * 1024;

/// A rule that a configuration breaks, with the values that break it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rule {
    /// Two listeners share an address.
    #[error("listen.{first} and listen.{second} must differ, both are {address}")]
    SameListener {
        /// One listener.
        first: &'static str,
        /// The other one.
        second: &'static str,
        /// Their address.
        address: SocketAddr,
    },
    /// A listener on all interfaces says nothing about how to reach it.
    #[error("advertise.{listener} must be set (host:port), because listen.{listener} is {address}")]
    AdvertiseMissing {
        /// The listener.
        listener: &'static str,
        /// Its address.
        address: SocketAddr,
    },
    /// An address is not `host:port`.
    #[error("{key} must be host:port, not `{value}`")]
    NotAnAddress {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
    },
    /// A link is not one.
    #[error("{key} must be an http:// or https:// address, not `{value}`")]
    NotALink {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
    },
    /// A value must not be empty.
    #[error("{key} must not be empty")]
    Empty {
        /// The key.
        key: &'static str,
    },
    /// A value is below its floor.
    #[error("{key} = {value} must be at least {floor}")]
    TooSmall {
        /// The key.
        key: &'static str,
        /// Its value.
        value: u64,
        /// The smallest value.
        floor: u64,
    },
    /// A value is above its ceiling.
    #[error("{key} = {value} must be at most {ceiling}")]
    TooLarge {
        /// The key.
        key: &'static str,
        /// Its value.
        value: u64,
        /// The largest value.
        ceiling: u64,
    },
    /// Two timings are in the wrong order.
    #[error("{small} = {small_value} must be below {large} = {large_value}")]
    Order {
        /// The key that must be smaller.
        small: &'static str,
        /// Its value.
        small_value: u64,
        /// The key that must be larger.
        large: &'static str,
        /// Its value.
        large_value: u64,
    },
    /// A leader would step down for a probe while its lease still runs.
    #[error(
        "raft.quorum_loss_probe_ms = {probe} must be at least twice raft.election_max_ms = {election}"
    )]
    ProbeTooEarly {
        /// `raft.quorum_loss_probe_ms`.
        probe: u64,
        /// `raft.election_max_ms`.
        election: u64,
    },
    /// A certificate without its key, or the reverse.
    #[error("{first} and {second} go together: set both or neither")]
    Pair {
        /// One key.
        first: &'static str,
        /// The other one.
        second: &'static str,
    },
    /// A key to change from, and none to change to.
    #[error("{key} is set, but {wanted} is not: data that is sealed stays sealed")]
    Without {
        /// The key that is set.
        key: &'static str,
        /// The key that it needs.
        wanted: &'static str,
    },
    /// A default password where certificates keep strangers out, and so where it matters.
    #[error(
        "security.allow_default_password = true is for trying out, with security.insecure = true: leave it out, and `cluster init` makes a password"
    )]
    DefaultPassword,
    /// The admin port has no log-in.
    #[error(
        "listen.admin = {address} can be reached by others and has no log-in: set tls.admins_need_certificate = true, or keep it on loopback"
    )]
    AdminIsOpen {
        /// `listen.admin`.
        address: SocketAddr,
    },
    /// A trusted proxy is neither an address nor a network.
    #[error(
        "http.trusted_proxies: `{value}` is neither an address nor a network such as 10.0.0.0/8"
    )]
    NotANetwork {
        /// The value.
        value: String,
    },
    /// Somebody outside would be asked without TLS.
    #[error("{key} = `{value}` is without TLS, which needs security.insecure")]
    NotSecure {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
    },
    /// Not what browsers call an origin.
    #[error(
        "{key}: `{value}` is no origin, write https://host or https://host:port without a slash at the end"
    )]
    NotAnOrigin {
        /// The key.
        key: &'static str,
        /// The value.
        value: String,
    },
    /// The log filter cannot be parsed.
    #[error("telemetry.log = `{value}` is no log filter: {reason}")]
    LogFilter {
        /// Its value.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl Config {
    /// Checks what types cannot say.
    ///
    /// # Errors
    /// The first broken [`Rule`].
    pub fn validate(&self) -> Result<(), Rule> {
        self.validate_addresses()?;
        self.accounts.validate()?;
        within(
            "security.signing_key_days",
            usize::try_from(self.security.signing_key_days).unwrap_or(usize::MAX),
            SIGNING_KEY_DAYS_FLOOR,
            SIGNING_KEY_DAYS_CEILING,
        )?;
        if self.node.name.is_empty() {
            return Err(Rule::Empty { key: "node.name" });
        }
        if self.node.data_dir.as_os_str().is_empty() {
            return Err(Rule::Empty {
                key: "node.data_dir",
            });
        }
        self.validate_tls()?;
        self.encryption.validate()?;
        self.validate_identities()?;
        self.limits.validate()?;
        self.rates.validate()?;
        for (key, value, floor) in [
            ("audit.kept_days", self.audit.kept_days, 1),
            (
                "audit.shard_bytes_max",
                self.audit.shard_bytes_max,
                AUDIT_BYTES_FLOOR,
            ),
            (
                "audit.node_bytes_max",
                self.audit.node_bytes_max,
                AUDIT_BYTES_FLOOR,
            ),
        ] {
            if value < floor {
                return Err(Rule::TooSmall { key, value, floor });
            }
        }
        for (key, value) in [
            ("http.head_read_ms", self.http.head_read_ms),
            ("http.body_read_ms", self.http.body_read_ms),
        ] {
            let value = usize::try_from(value).unwrap_or(usize::MAX);
            within(key, value, READ_FLOOR_MS, READ_CEILING_MS)?;
        }
        self.http
            .proxies()
            .map_err(|value| Rule::NotANetwork { value })?;
        self.changes.validate()?;
        self.webhooks.validate()?;
        self.live.validate()?;
        self.storage.validate()?;
        self.raft.validate()?;
        below(
            ("raft.election_max_ms", self.raft.election_max_ms),
            ("limits.deadline_ms", self.limits.deadline_ms),
        )?;
        tracing_subscriber::EnvFilter::try_new(&self.telemetry.log)
            .map(|_| ())
            .map_err(|error| Rule::LogFilter {
                value: self.telemetry.log.clone(),
                reason: error.to_string(),
            })
    }

    fn validate_identities(&self) -> Result<(), Rule> {
        let insecure = self.security.insecure;
        for issuer in &self.security.trusted_issuers {
            issuer.validate(insecure)?;
        }
        self.mail.smtp.validate(insecure)?;
        for provider in self.oauth.values() {
            provider.validate(insecure)?;
        }
        Ok(())
    }

    fn validate_tls(&self) -> Result<(), Rule> {
        let tls = &self.tls;
        if tls.client_certificate.as_os_str().is_empty() == tls.client_key.is_set() {
            return Err(Rule::Pair {
                first: "tls.client_certificate",
                second: "tls.client_key",
            });
        }
        if self.security.allow_default_password && !self.security.insecure {
            return Err(Rule::DefaultPassword);
        }
        let address = self.listen.admin;
        if !self.security.insecure && !tls.admins_need_certificate && !address.ip().is_loopback() {
            return Err(Rule::AdminIsOpen { address });
        }
        Ok(())
    }

    fn validate_addresses(&self) -> Result<(), Rule> {
        let listen = &self.listen;
        for (first, a, second, b) in [
            ("client", listen.client, "peer", listen.peer),
            ("client", listen.client, "admin", listen.admin),
            ("peer", listen.peer, "admin", listen.admin),
        ] {
            // Port 0 asks the system for any free port: never the same one twice.
            if a == b && a.port() != 0 {
                return Err(Rule::SameListener {
                    first,
                    second,
                    address: a,
                });
            }
        }
        for (listener, address, advertised) in [
            ("client", listen.client, &self.advertise.client),
            ("peer", listen.peer, &self.advertise.peer),
        ] {
            if address.ip().is_unspecified() && advertised.is_none() {
                return Err(Rule::AdvertiseMissing { listener, address });
            }
        }
        let advertised = [
            ("advertise.client", self.advertise.client.as_ref()),
            ("advertise.peer", self.advertise.peer.as_ref()),
        ];
        let seeds = self
            .cluster
            .seeds
            .iter()
            .map(|seed| ("cluster.seeds", Some(seed)));
        for (key, value) in advertised.into_iter().chain(seeds) {
            if let Some(value) = value.filter(|value| !is_host_port(value)) {
                return Err(Rule::NotAnAddress {
                    key,
                    value: value.clone(),
                });
            }
        }
        Ok(())
    }
}

impl Encryption {
    fn validate(&self) -> Result<(), Rule> {
        if self.previous_master_key.is_set() && !self.master_key.is_set() {
            return Err(Rule::Without {
                key: "encryption.previous_master_key",
                wanted: "encryption.master_key",
            });
        }
        within(
            "encryption.rewrite_mib_per_s",
            self.rewrite_mib_per_s,
            1,
            usize::MAX,
        )
    }
}

impl Limits {
    fn validate(&self) -> Result<(), Rule> {
        within(
            "limits.body_bytes_max",
            self.body_bytes_max,
            1024,
            BODY_BYTES_CEILING,
        )?;
        within(
            "limits.key_bytes_max",
            self.key_bytes_max,
            64,
            KEY_BYTES_CEILING,
        )?;
        within("limits.depth_max", self.depth_max, 1, DEPTH_CEILING)?;
        within(
            "limits.requests_in_flight_max",
            self.requests_in_flight_max,
            1,
            usize::MAX,
        )?;
        within(
            "limits.proposals_in_flight_max",
            self.proposals_in_flight_max,
            1,
            usize::MAX,
        )?;
        within(
            "limits.proposal_bytes_in_flight_max",
            self.proposal_bytes_in_flight_max,
            PROPOSAL_BYTES_FLOOR,
            BYTES_CEILING,
        )?;
        // Or a body of the permitted length could never be sent.
        within(
            "limits.request_bytes_in_flight_max",
            self.request_bytes_in_flight_max,
            self.body_bytes_max,
            BYTES_CEILING,
        )?;
        within("limits.scans_open_max", self.scans_open_max, 1, usize::MAX)?;
        within("limits.websockets_max", self.websockets_max, 1, usize::MAX)?;
        within("limits.query_rows_max", self.query_rows_max, 1, usize::MAX)?;
        within(
            "limits.query_results_max",
            self.query_results_max,
            1,
            usize::MAX,
        )?;
        // Or a document of the permitted length could never be found.
        within(
            "limits.query_result_bytes_max",
            self.query_result_bytes_max,
            self.body_bytes_max,
            BYTES_CEILING,
        )?;
        within(
            "limits.queries_at_once_max",
            self.queries_at_once_max,
            1,
            QUERIES_CEILING,
        )?;
        within(
            "limits.connections_max",
            self.connections_max,
            1,
            usize::MAX,
        )?;
        within(
            "limits.connections_per_address_max",
            self.connections_per_address_max,
            1,
            usize::MAX,
        )?;
        within(
            "limits.metadata_age_max_ms",
            usize::try_from(self.metadata_age_max_ms).unwrap_or(usize::MAX),
            METADATA_AGE_FLOOR_MS,
            usize::MAX,
        )?;
        // Or the predefined roles alone could be too many.
        within(
            "limits.rights_rows_max",
            self.rights_rows_max,
            RIGHTS_ROWS_FLOOR,
            usize::MAX,
        )
    }
}

impl Rates {
    fn validate(&self) -> Result<(), Rule> {
        for (key, value) in [
            ("rates.address_per_s", self.address_per_s),
            ("rates.token_per_s", self.token_per_s),
            ("rates.database_per_s", self.database_per_s),
            ("rates.signup_per_min", self.signup_per_min),
        ] {
            within(key, value as usize, 0, RATE_CEILING)?;
        }
        for (key, value) in [
            ("rates.address_burst", self.address_burst),
            ("rates.token_burst", self.token_burst),
            ("rates.database_burst", self.database_burst),
            ("rates.signup_burst", self.signup_burst),
        ] {
            within(key, value as usize, 1, RATE_CEILING)?;
        }
        Ok(())
    }
}

impl Live {
    fn validate(&self) -> Result<(), Rule> {
        for (key, value) in [
            ("live.queries_max", self.queries_max),
            ("live.per_socket_max", self.per_socket_max),
            ("live.unanchored_max", self.unanchored_max),
            ("live.window_max", self.window_max),
            ("live.changes_max", self.changes_max),
        ] {
            within(key, value, 1, LIVE_CEILING)?;
        }
        Ok(())
    }
}

impl Changes {
    fn validate(&self) -> Result<(), Rule> {
        for (key, value, ceiling) in [
            (
                "changes.retention_hours",
                self.retention_hours,
                RETENTION_HOURS_CEILING,
            ),
            (
                "changes.retention_mib",
                self.retention_mib,
                RETENTION_MIB_CEILING,
            ),
        ] {
            let value = usize::try_from(value).unwrap_or(usize::MAX);
            within(key, value, 1, ceiling)?;
        }
        within("changes.feeds_max", self.feeds_max, 1, FEEDS_CEILING)?;
        within(
            "changes.feed_kib",
            self.feed_kib,
            FEED_KIB_FLOOR,
            FEED_KIB_CEILING,
        )
    }
}

impl Storage {
    fn validate(&self) -> Result<(), Rule> {
        within(
            "storage.memory_mib",
            self.memory_mib,
            MEMORY_MIB_FLOOR,
            MEMORY_MIB_CEILING,
        )?;
        within("storage.reserve_mib", self.reserve_mib, 1, usize::MAX)?;
        within(
            "storage.scrub_pause_s",
            usize::try_from(self.scrub_pause_s).unwrap_or(usize::MAX),
            1,
            SCRUB_PAUSE_S_CEILING,
        )?;
        within(
            "storage.log_stall_ms",
            usize::try_from(self.log_stall_ms).unwrap_or(usize::MAX),
            LOG_STALL_FLOOR_MS,
            usize::MAX,
        )
    }
}

impl Raft {
    fn validate(&self) -> Result<(), Rule> {
        if self.heartbeat_min_interval_ms == 0 {
            return Err(Rule::TooSmall {
                key: "raft.heartbeat_min_interval_ms",
                value: 0,
                floor: 1,
            });
        }
        let heartbeat = ("raft.heartbeat_ms", self.heartbeat_ms);
        below(
            (
                "raft.heartbeat_min_interval_ms",
                self.heartbeat_min_interval_ms,
            ),
            heartbeat,
        )?;
        below(heartbeat, ("raft.election_min_ms", self.election_min_ms))?;
        below(
            ("raft.election_min_ms", self.election_min_ms),
            ("raft.election_max_ms", self.election_max_ms),
        )?;
        if self.quorum_loss_probe_ms < self.election_max_ms.saturating_mul(2) {
            return Err(Rule::ProbeTooEarly {
                probe: self.quorum_loss_probe_ms,
                election: self.election_max_ms,
            });
        }
        if self.log_bytes_max < LOG_BYTES_FLOOR {
            return Err(Rule::TooSmall {
                key: "raft.log_bytes_max",
                value: self.log_bytes_max,
                floor: LOG_BYTES_FLOOR,
            });
        }
        Ok(())
    }
}

pub(super) fn within(
    key: &'static str,
    value: usize,
    floor: usize,
    ceiling: usize,
) -> Result<(), Rule> {
    if value < floor {
        return Err(Rule::TooSmall {
            key,
            value: value as u64,
            floor: floor as u64,
        });
    }
    if value > ceiling {
        return Err(Rule::TooLarge {
            key,
            value: value as u64,
            ceiling: ceiling as u64,
        });
    }
    Ok(())
}

fn below(small: (&'static str, u64), large: (&'static str, u64)) -> Result<(), Rule> {
    if small.1 < large.1 {
        return Ok(());
    }
    Err(Rule::Order {
        small: small.0,
        small_value: small.1,
        large: large.0,
        large_value: large.1,
    })
}

/// `host:port` with a non-empty host and a port above 0; the host is not resolved here.
fn is_host_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(change: impl FnOnce(&mut Config)) -> Rule {
        let mut config = Config::default();
        change(&mut config);
        config.validate().unwrap_err()
    }

    #[test]
    fn defaults_are_valid() {
        assert_eq!(Config::default().validate(), Ok(()));
    }

    #[test]
    fn each_rule_names_both_values() {
        let rule = broken(|config| config.raft.election_min_ms = 100);
        assert_eq!(
            rule.to_string(),
            "raft.heartbeat_ms = 150 must be below raft.election_min_ms = 100"
        );
        let rule = broken(|config| config.raft.quorum_loss_probe_ms = 1399);
        assert_eq!(
            rule,
            Rule::ProbeTooEarly {
                probe: 1399,
                election: 700
            }
        );
        let rule = broken(|config| config.limits.deadline_ms = 700);
        assert!(
            matches!(
                rule,
                Rule::Order {
                    large: "limits.deadline_ms",
                    ..
                }
            ),
            "{rule}"
        );
        let rule = broken(|config| config.limits.depth_max = 100_000);
        assert!(
            matches!(
                rule,
                Rule::TooLarge {
                    key: "limits.depth_max",
                    ..
                }
            ),
            "{rule}"
        );
    }

    #[test]
    fn two_listeners_on_one_address_are_refused() {
        let rule = broken(|config| config.listen.admin = config.listen.peer);
        assert!(
            matches!(
                rule,
                Rule::SameListener {
                    first: "peer",
                    second: "admin",
                    ..
                }
            ),
            "{rule}"
        );
    }

    #[test]
    fn a_listener_on_all_interfaces_needs_an_advertised_address() {
        let rule = broken(|config| config.listen.peer = SocketAddr::from(([0, 0, 0, 0], 7401)));
        assert!(
            matches!(
                rule,
                Rule::AdvertiseMissing {
                    listener: "peer",
                    ..
                }
            ),
            "{rule}"
        );
    }

    #[test]
    fn seeds_are_host_and_port() {
        for bad in ["10.0.0.1", "http://10.0.0.1:7401", ":7401", "host:0"] {
            let rule = broken(|config| config.cluster.seeds = vec![bad.to_owned()]);
            assert!(
                matches!(
                    rule,
                    Rule::NotAnAddress {
                        key: "cluster.seeds",
                        ..
                    }
                ),
                "{bad}: {rule}"
            );
        }
    }

    #[test]
    fn an_admin_port_for_others_needs_certificates() {
        let open = |config: &mut Config| {
            config.listen.admin = SocketAddr::from(([10, 0, 0, 1], 7402));
        };
        assert!(matches!(broken(open), Rule::AdminIsOpen { .. }));
        let mut config = Config::default();
        open(&mut config);
        config.tls.admins_need_certificate = true;
        assert_eq!(config.validate(), Ok(()));
    }

    #[test]
    fn proxies_are_addresses_or_networks() {
        let mut config = Config::default();
        config.http.trusted_proxies = ["10.0.0.0/8", "::1", "192.0.2.1"]
            .map(str::to_owned)
            .to_vec();
        assert_eq!(config.validate(), Ok(()));
        let rule = broken(|config| config.http.trusted_proxies = vec!["proxy.example".to_owned()]);
        assert!(matches!(rule, Rule::NotANetwork { .. }), "{rule}");
    }

    #[test]
    fn the_default_password_is_for_plain_text_alone() {
        let rule = broken(|config| config.security.allow_default_password = true);
        assert_eq!(rule, Rule::DefaultPassword);
        let mut config = Config::default();
        (
            config.security.allow_default_password,
            config.security.insecure,
        ) = (true, true);
        assert_eq!(config.validate(), Ok(()));
    }

    #[test]
    fn a_burst_lets_somebody_in() {
        let rule = broken(|config| config.rates.address_burst = 0);
        assert!(matches!(rule, Rule::TooSmall { .. }), "{rule}");
    }

    #[test]
    fn a_certificate_needs_its_key() {
        let rule = broken(|config| config.tls.client_certificate = "site.crt".into());
        assert!(matches!(rule, Rule::Pair { .. }), "{rule}");
    }

    #[test]
    fn a_bad_log_filter_is_refused() {
        let rule = broken(|config| config.telemetry.log = "info,raft=loud".to_owned());
        assert!(matches!(rule, Rule::LogFilter { .. }), "{rule}");
    }
}
