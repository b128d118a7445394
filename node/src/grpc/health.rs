//! `grpc.health.v1.Health`: serving exactly while the node is ready.
//!
//! Asked of the node at each check, so that no task has to keep a copy of the answer up to date.

use std::pin::Pin;
use std::time::Duration;

use futures::stream::{self, Stream, StreamExt};
use proto::v1::documents_server;
use service::Service;
use tokio::time::{Interval, interval};
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{self, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

/// How often a watched status is looked at.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// The health service of this node.
pub(super) fn server(service: Service) -> HealthServer<impl health_server::Health> {
    HealthServer::new(Health { service })
}

struct Health {
    service: Service,
}

/// Whether `name` is the whole server or a service of ours.
fn is_known(name: &str) -> bool {
    ["", documents_server::SERVICE_NAME].contains(&name)
}

fn current(service: &Service) -> ServingStatus {
    if service.ready().is_ok() {
        ServingStatus::Serving
    } else {
        ServingStatus::NotServing
    }
}

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse {
        status: status.into(),
    }
}

/// A watcher's state: what it was told last.
struct Watch {
    service: Option<Service>,
    interval: Interval,
    told: Option<ServingStatus>,
}

impl Watch {
    /// Waits for a status that the watcher does not know.
    async fn change(mut self) -> Option<(Result<HealthCheckResponse, Status>, Self)> {
        loop {
            self.interval.tick().await;
            let now = self
                .service
                .as_ref()
                .map_or(ServingStatus::ServiceUnknown, current);
            if self.told != Some(now) {
                self.told = Some(now);
                return Some((Ok(answer(now)), self));
            }
        }
    }
}

#[tonic::async_trait]
impl health_server::Health for Health {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let name = &request.get_ref().service;
        if !is_known(name) {
            return Err(Status::not_found(format!("unknown service {name:?}")));
        }
        Ok(Response::new(answer(current(&self.service))))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let service = is_known(&request.get_ref().service).then(|| self.service.clone());
        let watch = Watch {
            service,
            interval: interval(WATCH_INTERVAL),
            told: None,
        };
        Ok(Response::new(stream::unfold(watch, Watch::change).boxed()))
    }
}
