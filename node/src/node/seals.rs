//! Encryption at rest of this node: opened at the start, its keys changed by operators, old values rewritten in the background.
//!
//! The rewriting has a rate, so that requests hardly notice it, and begins anew after a restart: what is done is found done. A value that
//! does not open ends a pass; its replica is then condemned as for any other damage and renewed, and a later pass gets through.

use std::sync::Arc;
use std::time::Duration;

use cluster::machine::StateHandle;
use futures::future::BoxFuture;
use proto::ErrorCode;
use service::Error;
use storage::seal::{Masters, Pass, Scope, SealStatus, Sealing};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::cli::exit::{Exit, Status};
use crate::config::Encryption;
use crate::http::admin_encryption::EncryptionControl;

/// One piece of a pass; the rate is kept by the pauses between them.
const PIECE_BYTES: usize = 256 << 10;
/// Before a pass that failed is tried again, and between two looks whether one is due.
const AGAIN: Duration = Duration::from_secs(60);

/// The master keys that `config` names, as they are now.
///
/// # Errors
/// Exit status 78 and the reason; nothing was opened.
pub(super) fn masters(config: &Encryption) -> anyhow::Result<Masters> {
    let read = |key, source: &crate::config::MasterKeySource| {
        source.read().map_err(|error| {
            Exit::new(
                Status::Config,
                format_args!("encryption.{key}: {error}; nothing was opened or changed"),
            )
        })
    };
    if !config.master_key.is_set() {
        return Ok(Masters::Off);
    }
    let previous = config
        .previous_master_key
        .is_set()
        .then(|| read("previous_master_key", &config.previous_master_key))
        .transpose()?;
    Ok(Masters::On {
        current: read("master_key", &config.master_key)?,
        previous,
    })
}

/// A start that was refused for want of the right key is one of configuration.
pub(super) fn refusal(error: anyhow::Error) -> anyhow::Error {
    match error.downcast_ref() {
        Some(storage::Error::Sealed { .. } | storage::Error::WrongMasterKey { .. }) => {
            Exit::new(Status::Config, format_args!("{error:#}")).into()
        }
        Some(storage::Error::KeysLost { .. }) => {
            Exit::new(Status::DataDamaged, format_args!("{error:#}")).into()
        }
        _ => error,
    }
}

/// See the module.
pub(super) struct Seals {
    sealing: Arc<Sealing>,
    config: Encryption,
    metadata: StateHandle,
    /// Keys have changed.
    work: Notify,
}

impl Seals {
    pub(super) fn new(sealing: Arc<Sealing>, config: Encryption, metadata: StateHandle) -> Self {
        Self {
            sealing,
            config,
            metadata,
            work: Notify::new(),
        }
    }

    /// Rewrites whatever is due until `stop`.
    pub(super) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let work = async {
            loop {
                self.publish();
                if let Err(error) = self.pass().await {
                    metrics::counter!("larder_reseal_errors_total").increment(1);
                    tracing::error!(%error, "values are not rewritten with the current data keys; it is tried again");
                }
                self.publish();
                let _ = timeout(AGAIN, self.work.notified()).await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = work => {}
        }
    }

    /// Passes until nothing is due.
    async fn pass(&self) -> anyhow::Result<()> {
        loop {
            let Some(mut pass) = self.blocking(Sealing::begin).await?? else {
                return Ok(());
            };
            tracing::info!("values are rewritten with the current data keys");
            loop {
                let (read, left) = self.step(pass).await?;
                pass = left;
                let Some(bytes) = read else { break };
                metrics::counter!("larder_reseal_bytes_total").increment(bytes as u64);
                self.publish();
                let rate = self.config.rewrite_bytes_per_s() as f64;
                sleep(Duration::from_secs_f64(bytes as f64 / rate)).await;
            }
            let is_done = self.blocking(|sealing| sealing.finish(pass)).await??;
            if is_done {
                tracing::info!(
                    "all values are sealed with the current data keys; the old ones are gone"
                );
            } else {
                // Snapshots that are on their way end, or are given up.
                sleep(Duration::from_secs(1)).await;
            }
        }
    }

    async fn step(&self, mut pass: Pass) -> anyhow::Result<(Option<usize>, Pass)> {
        let stepped = self.blocking(move |sealing| match sealing.step(&mut pass, PIECE_BYTES) {
            Ok(read) => Ok((read, pass)),
            Err(error) => {
                sealing.give_up(pass);
                Err(error)
            }
        });
        Ok(stepped.await??)
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Sealing) -> T + Send + 'static,
    ) -> anyhow::Result<T> {
        let sealing = Arc::clone(&self.sealing);
        Ok(tokio::task::spawn_blocking(move || work(&sealing)).await?)
    }

    fn publish(&self) {
        let status = self.sealing.status();
        let retired = status.keys.iter().filter(|key| key.is_retired).count();
        metrics::gauge!("larder_data_keys").set(status.keys.len() as f64);
        metrics::gauge!("larder_data_keys_retired").set(retired as f64);
        metrics::gauge!("larder_reseal_running").set(f64::from(u8::from(status.is_rewriting)));
        metrics::gauge!("larder_reseal_values").set(status.rewritten as f64);
        metrics::gauge!("larder_reseal_converting").set(f64::from(u8::from(status.is_converting)));
    }

    async fn changed(
        &self,
        change: impl FnOnce(&Sealing) -> Result<(), String> + Send + 'static,
    ) -> Result<SealStatus, Error> {
        let failed = |what: String| Error::new(ErrorCode::Internal, what);
        self.blocking(change)
            .await
            .map_err(|error| failed(error.to_string()))?
            .map_err(failed)?;
        self.publish();
        self.work.notify_one();
        Ok(self.sealing.status())
    }
}

impl EncryptionControl for Seals {
    fn status(&self) -> SealStatus {
        self.sealing.status()
    }

    fn rotate(&self, database: Option<String>) -> BoxFuture<'_, Result<SealStatus, Error>> {
        Box::pin(async move {
            let scope = match database {
                None => None,
                Some(name) => match self.metadata.current().database(&name) {
                    Some(database) => Some(Scope::Database(database.id)),
                    None => {
                        let what = format!("there is no database {name}");
                        return Err(Error::new(ErrorCode::BucketNotFound, what));
                    }
                },
            };
            self.changed(move |sealing| {
                let rotated = sealing.rotate(scope);
                rotated.map(drop).map_err(|error| error.to_string())
            })
            .await
        })
    }

    fn rewrap(&self) -> BoxFuture<'_, Result<SealStatus, Error>> {
        Box::pin(async move {
            let source = self.config.master_key.clone();
            let read = tokio::task::spawn_blocking(move || source.read()).await;
            let master = read
                .map_err(|error| Error::new(ErrorCode::Internal, error.to_string()))?
                .map_err(|error| {
                    let what = format!("encryption.master_key: {error}");
                    Error::new(ErrorCode::BadRequest, what)
                })?;
            self.changed(move |sealing| sealing.rewrap(&master).map_err(|error| error.to_string()))
                .await
        })
    }
}
