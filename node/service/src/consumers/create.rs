//! Making a consumer: what may be asked for, and where it begins.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use cluster::consumers::Consumer;
use proto::ErrorCode;
use proto::log::{CreateConsumer, meta_command};
use rand::RngCore as _;

use super::place::position_at;
use super::{ConsumerStatus, find};
use crate::Core;
use crate::auth::policy::require_admin;
use crate::changes::{FeedRequest, Resumed, Start, begins, check};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::forward::Cursor;
use crate::leader::find_database;
use crate::quotas::attributed;

/// Longest name of a consumer.
const NAME_BYTES_MAX: usize = 63;
/// Longest filter: it is kept in the metadata, which every node holds in memory.
const FILTER_BYTES_MAX: usize = 16 * 1024;
/// Longest address of a target.
const URL_BYTES_MAX: usize = 2 * 1024;
/// Shortest and longest secret that a client may give.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 16..=256;
/// Random bytes of a secret that is made here.
const SECRET_BYTES_MADE: usize = 32;

/// A consumer to be made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConsumerRequest {
    /// 1 to 63 of `A-Z a-z 0-9 _ -`.
    pub name: String,
    /// Only this bucket; `None`: all.
    pub bucket: Option<String>,
    /// Only documents that match, JSON text; empty: all. With a bucket alone.
    pub filter: Bytes,
    /// Where it begins.
    pub start: Start,
    /// Where changes are sent to; `None`: they are fetched.
    pub target: Option<NewTarget>,
}

/// A target to be sent to.
#[derive(Clone, PartialEq, Eq)]
pub struct NewTarget {
    /// Its address.
    pub url: String,
    /// Signs what is sent; `None`: one is made, and given back once.
    pub secret: Option<String>,
}

/// Without the secret.
impl std::fmt::Debug for NewTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewTarget")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

impl ConsumerRequest {
    /// # Errors
    /// `BadRequest`: what is too long, or no name.
    fn check(&self) -> Result<()> {
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        let length = self.name.len();
        if !(1..=NAME_BYTES_MAX).contains(&length) || !self.name.bytes().all(is_word) {
            return Err(Error::bad_request(format!(
                "a consumer's name is 1 to {NAME_BYTES_MAX} of A-Z a-z 0-9 _ -"
            )));
        }
        if self.filter.len() > FILTER_BYTES_MAX {
            return Err(Error::bad_request(format!(
                "the filter of a consumer has at most {FILTER_BYTES_MAX} bytes"
            )));
        }
        let Some(target) = &self.target else {
            return Ok(());
        };
        if target.url.len() > URL_BYTES_MAX {
            return Err(Error::bad_request(format!(
                "the address of a target has at most {URL_BYTES_MAX} bytes"
            )));
        }
        let length = target.secret.as_ref().map(String::len);
        match length.is_none_or(|length| SECRET_BYTES.contains(&length)) {
            true => Ok(()),
            false => Err(Error::bad_request(format!(
                "a secret has {} to {} bytes; leave it out to have one made",
                SECRET_BYTES.start(),
                SECRET_BYTES.end()
            ))),
        }
    }

    /// What it is told and where it begins, as a feed is asked for it.
    fn told(&self) -> FeedRequest {
        FeedRequest {
            bucket: self.bucket.clone(),
            filter: self.filter.clone(),
            start: self.start.clone(),
            by_time: false,
        }
    }

    /// The command that makes it, with a secret if it needs one; without database and position.
    fn command(&self) -> Result<CreateConsumer> {
        let (url, secret) = match &self.target {
            Some(NewTarget { url, secret }) => {
                let secret = secret.clone().unwrap_or_else(make_secret);
                (url.clone(), secret)
            }
            None => Default::default(),
        };
        let filter = String::from_utf8(self.filter.to_vec());
        Ok(CreateConsumer {
            name: self.name.clone(),
            bucket: self.bucket.clone().unwrap_or_default(),
            filter: filter.map_err(|_| Error::bad_request("the filter is not UTF-8"))?,
            url,
            secret,
            ..CreateConsumer::default()
        })
    }

    /// Whether a consumer was made by such a request.
    fn made(&self, consumer: &Consumer) -> bool {
        let is_target = match (&self.target, &consumer.target) {
            (Some(asked), Some(is)) => {
                let secret = asked.secret.as_ref();
                asked.url == is.url && secret.is_none_or(|secret| *secret == is.secret.0)
            }
            (None, None) => true,
            _ => false,
        };
        is_target
            && self.bucket.as_deref().unwrap_or("") == consumer.bucket
            && self.filter == consumer.filter.as_bytes()
    }
}

impl Core {
    /// See [`crate::Service::create_consumer`].
    pub(crate) async fn create_consumer(
        self: &Arc<Self>,
        ctx: &Context,
        request: ConsumerRequest,
    ) -> Result<ConsumerStatus> {
        let bucket = request.bucket.as_deref();
        let session = self.begin(ctx, bucket.as_slice()).await?;
        require_admin(&session.principal)?;
        request.check()?;
        if let Some(target) = &request.target {
            let check = self.courier.check(&target.url);
            check.map_err(|refused| Error::bad_request(refused.to_string()))?;
        }
        let told = request.told();
        check(self, ctx, &session, &told)?;
        let state = self.current_metadata(&session.state, ctx.deadline).await?;
        let database = find_database(&state, &ctx.database)?;
        let name = &request.name;
        if let Some(known) = find(&state, database, name) {
            if request.made(known) {
                return self.consumer_status(ctx, &state, name).await;
            }
            let message =
                format!("there is another consumer {name:?}: delete it, or take another name");
            return Err(Error::new(ErrorCode::ObjectExists, message));
        }
        let cursors = match begins(self, ctx, &session, &told).await? {
            Resumed::At(cursors) => cursors,
            Resumed::Resync => vec![Cursor::default().walking(true); state.shards as usize],
        };
        let create = CreateConsumer {
            database: database.id,
            position: Some(position_at(&state, &cursors, 0)),
            ..request.command()?
        };
        let secret = create.secret.clone();
        let create = meta_command::Operation::CreateConsumer(create);
        self.govern(attributed(&session.principal, create), ctx.deadline)
            .await?;
        let is_made = |consumer: &Consumer| {
            let target = consumer.target.as_ref();
            request.made(consumer) && target.is_none_or(|target| target.secret.0 == secret)
        };
        let state = self
            .consumers_heard(ctx, name, |found| found.is_some_and(is_made))
            .await?;
        let status = self.consumer_status(ctx, &state, name).await?;
        let is_ours = request.target.is_some_and(|target| target.secret.is_none());
        Ok(ConsumerStatus {
            secret: is_ours.then_some(secret),
            ..status
        })
    }
}

fn make_secret() -> String {
    let mut bytes = [0; SECRET_BYTES_MADE];
    rand::rng().fill_bytes(&mut bytes);
    URL_SAFE_NO_PAD.encode(bytes)
}
