//! Metrics and logs of the process: the names of the edge's metrics, the Prometheus recorder, and the log set-up.
//!
//! Labels take values from closed sets only, so no client can make a new time series.

use std::collections::HashMap;
use std::hash::Hash;
use std::io;
use std::time::Duration;

use metrics::{
    Counter, Histogram, Unit, counter, describe_counter, describe_histogram, gauge, histogram,
};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use parking_lot::RwLock;
use storage::engine::Stall;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Layer, fmt};

/// Requests over HTTP, by method, route and status.
pub const HTTP_REQUESTS_TOTAL: &str = "larder_http_requests_total";
/// Time to answer over HTTP, by route; for streamed answers up to the first byte.
pub const HTTP_REQUEST_SECONDS: &str = "larder_http_request_seconds";
/// Calls over gRPC, by method and error code (`ok` if none).
pub const GRPC_REQUESTS_TOTAL: &str = "larder_grpc_requests_total";
/// Time to answer over gRPC, by method; for streams up to the first message.
pub const GRPC_REQUEST_SECONDS: &str = "larder_grpc_request_seconds";

/// Requests that were refused because somebody asked too often, by limit (`address`, `token`, `database` or `signup`).
pub const RATE_LIMITED_TOTAL: &str = "larder_rate_limited_total";

/// WebSockets that are open.
pub const WEBSOCKETS_OPEN: &str = "larder_websockets_open";
/// WebSockets that ended, by why.
pub const WEBSOCKETS_ENDED_TOTAL: &str = "larder_websockets_ended_total";

/// What all histograms of times end in.
const SECONDS_SUFFIX: &str = "_seconds";

/// Bounds of all histograms of times: from a read out of memory to a request that ran into its deadline.
const SECONDS_BUCKETS: [f64; 16] = [
    0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0,
    10.0,
];

/// How often recorded samples are folded into their histograms; until then each takes memory.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Installs the process-wide recorder. Call it before the first request.
///
/// # Errors
/// A recorder is installed already.
pub fn install_metrics() -> Result<PrometheusHandle, BuildError> {
    let matcher = Matcher::Suffix(SECONDS_SUFFIX.to_owned());
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(matcher, &SECONDS_BUCKETS)?
        .install_recorder()?;
    describe_counter!(HTTP_REQUESTS_TOTAL, "Requests over HTTP");
    describe_counter!(
        RATE_LIMITED_TOTAL,
        "Requests refused because somebody asked too often"
    );
    describe_histogram!(
        HTTP_REQUEST_SECONDS,
        Unit::Seconds,
        "Time to answer over HTTP"
    );
    describe_counter!(GRPC_REQUESTS_TOTAL, "Calls over gRPC");
    describe_histogram!(
        GRPC_REQUEST_SECONDS,
        Unit::Seconds,
        "Time to answer over gRPC"
    );
    Ok(handle)
}

/// Publishes the state of both databases: `larder_data_*` and `larder_log_*`, alike where both have it.
pub fn databases(storage: &storage::Storage) {
    let (data, log) = (storage.engine.stats(), storage.logs.stats());
    gauge!("larder_block_cache_bytes").set(data.block_cache_bytes as f64);
    gauge!("larder_log_tail_bytes").set(log.tail_bytes as f64);
    if log.syncs > 0 {
        gauge!("larder_log_entries_per_sync").set(log.entries as f64 / log.syncs as f64);
    }
    for (database, stats) in [("data", data), ("log", log.database)] {
        let (stalled, stopped, rate) = match stats.stall {
            Stall::None => (0, 0, 0),
            Stall::Delayed(rate) => (1, 0, rate),
            Stall::Stopped => (1, 1, 0),
        };
        let set =
            |name: &str, value: u64| gauge!(format!("larder_{database}_{name}")).set(value as f64);
        set("memtable_bytes", stats.memtable_bytes);
        set("sst_bytes", stats.sst_bytes);
        set("level0_files", stats.level0_files);
        set("pending_compaction_bytes", stats.pending_compaction_bytes);
        set("running_flushes", stats.running_flushes);
        set("running_compactions", stats.running_compactions);
        set("background_errors", stats.background_errors);
        set("write_stalled", stalled);
        set("write_stopped", stopped);
        set("write_delayed_bytes_per_second", rate);
    }
}

/// Keeps the recorder's memory bounded until `stop`.
pub async fn metrics_upkeep(handle: PrometheusHandle, stop: CancellationToken) {
    let mut interval = tokio::time::interval(UPKEEP_INTERVAL);
    loop {
        tokio::select! {
            _ = interval.tick() => handle.run_upkeep(),
            () = stop.cancelled() => return,
        }
    }
}

/// What is less interesting than its level says.
const OWN_DIRECTIVES: &str = "openraft=error";

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for collectors.
    Json,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter cannot be parsed.
    #[error("log filter {filter:?}: {source}")]
    Filter {
        /// The filter as given.
        filter: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// Logging is set up already.
    #[error(transparent)]
    Installed(#[from] TryInitError),
}

/// Sends logs to standard error, filtered as `EnvFilter` describes: `info`, or `info,larder=debug`.
///
/// # Errors
/// [`LogError`]; nothing is set up then.
pub fn init_logging(format: LogFormat, filter: &str) -> Result<(), LogError> {
    // openraft tells each vote and heartbeat at `info`; a directive of the operator for it comes later and wins.
    let parsed = format!("{OWN_DIRECTIVES},{filter}")
        .parse::<EnvFilter>()
        .map_err(|source| LogError::Filter {
            filter: filter.to_owned(),
            source,
        })?;
    let lines = fmt::layer().with_writer(io::stderr);
    let lines = match format {
        LogFormat::Text => lines
            .with_ansi(io::IsTerminal::is_terminal(&io::stderr()))
            .boxed(),
        LogFormat::Json => lines
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .boxed(),
    };
    tracing_subscriber::registry()
        .with(parsed)
        .with(lines)
        .try_init()?;
    Ok(())
}

/// Counter and histogram for each combination of labels that was seen, looked up without building a key.
struct Meters<K>(RwLock<HashMap<K, (Counter, Histogram)>>);

impl<K> Default for Meters<K> {
    fn default() -> Self {
        Self(RwLock::default())
    }
}

impl<K: Eq + Hash> Meters<K> {
    /// `K` must come from a closed set: nothing is ever forgotten.
    fn record(&self, key: K, elapsed: Duration, register: impl FnOnce() -> (Counter, Histogram)) {
        if let Some((requests, seconds)) = self.0.read().get(&key) {
            requests.increment(1);
            seconds.record(elapsed);
            return;
        }
        let (requests, seconds) = register();
        requests.increment(1);
        seconds.record(elapsed);
        self.0.write().insert(key, (requests, seconds));
    }
}

/// Counts and times of HTTP requests.
#[derive(Default)]
pub(crate) struct HttpMeter(Meters<(&'static str, &'static str, u16)>);

impl HttpMeter {
    pub(crate) fn record(
        &self,
        method: &'static str,
        route: &'static str,
        status: u16,
        elapsed: Duration,
    ) {
        self.0.record((method, route, status), elapsed, || {
            let requests = counter!(HTTP_REQUESTS_TOTAL, "method" => method, "route" => route, "status" => status.to_string());
            (requests, histogram!(HTTP_REQUEST_SECONDS, "route" => route))
        });
    }
}

/// Counts and times of gRPC calls.
#[derive(Default)]
pub(crate) struct GrpcMeter(Meters<(&'static str, &'static str)>);

impl GrpcMeter {
    pub(crate) fn record(&self, method: &'static str, code: &'static str, elapsed: Duration) {
        self.0.record((method, code), elapsed, || {
            let requests = counter!(GRPC_REQUESTS_TOTAL, "method" => method, "code" => code);
            (
                requests,
                histogram!(GRPC_REQUEST_SECONDS, "method" => method),
            )
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_and_timed_by_closed_labels() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            let http = HttpMeter::default();
            http.record("GET", "document", 200, Duration::from_millis(3));
            http.record("GET", "document", 200, Duration::from_millis(3));
            http.record("PUT", "document", 412, Duration::from_millis(3));
            GrpcMeter::default().record("Get", "ok", Duration::from_millis(3));
        });
        let text = handle.render();
        for line in [
            r#"larder_http_requests_total{method="GET",route="document",status="200"} 2"#,
            r#"larder_http_requests_total{method="PUT",route="document",status="412"} 1"#,
            r#"larder_http_request_seconds_count{route="document"} 3"#,
            r#"larder_grpc_requests_total{method="Get",code="ok"} 1"#,
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }

    #[test]
    fn an_unreadable_log_filter_is_refused() {
        assert!(matches!(
            init_logging(LogFormat::Text, "larder=loud"),
            Err(LogError::Filter { .. })
        ));
    }
}
