//! Walking a bucket page by page, shard by shard in the order of their numbers.

use bytes::Bytes;
use cluster::state::{BucketInfo, ClusterState, Database};
use prost::Message;
use proto::ShardId;

use crate::Core;
use crate::auth::policy;
use crate::context::{Context, ScanPage, ScanRange, Served};
use crate::documents::{Session, document, unexpected};
use crate::error::{Error, Result};
use crate::forward::{self, Answer, Operation, Record};

impl Core {
    pub(crate) async fn scan(
        &self,
        ctx: &Context,
        bucket: &str,
        range: ScanRange,
    ) -> Result<ScanPage> {
        let consistency = range.freshness.consistency;
        let session = self.begin_at(ctx, &[bucket], consistency).await?;
        self.page(ctx, &session, bucket, range, false).await
    }

    /// A page for an administrator, with the hidden members of each document.
    pub(crate) async fn export(
        &self,
        ctx: &Context,
        bucket: &str,
        range: ScanRange,
    ) -> Result<ScanPage> {
        let session = self.begin(ctx, &[bucket]).await?;
        policy::require_admin(&session.principal)?;
        self.page(ctx, &session, bucket, range, true).await
    }

    async fn page(
        &self,
        ctx: &Context,
        session: &Session,
        bucket: &str,
        range: ScanRange,
        hidden: bool,
    ) -> Result<ScanPage> {
        let freshness = &range.freshness;
        let (database, info) = session.find(ctx, bucket)?;
        let mut place = match &range.continuation {
            Some(continuation) => Place::decode(continuation.clone(), session.state.shards)?,
            None => Place::first(&session.state, database, info, range.start_key.as_deref()),
        };
        let mut page = ScanPage::default();
        let mut bytes_left = self.options.limits.scan_page_bytes;
        let documents_max = match range.limit {
            0 => self.options.limits.scan_page_documents,
            limit => usize::try_from(limit)
                .unwrap_or(usize::MAX)
                .min(self.options.limits.scan_page_documents),
        };
        loop {
            let scan = forward::Scan {
                database: database.name.clone(),
                bucket: bucket.to_owned(),
                from: place.key.clone(),
                after: place.after,
                documents_max: (documents_max - page.documents.len()) as u64,
                bytes_max: bytes_left as u64,
                hidden,
            };
            let shard = ShardId(place.shard);
            let request = session.request(shard, None, Operation::Scan(scan));
            let read = Box::pin(self.read(&session.state, request, freshness, ctx.deadline));
            let (Answer::Page(part), level) = read.await? else {
                return Err(unexpected());
            };
            page.served.extend(Served::of(shard, part.seen, level));
            for record in part.records {
                bytes_left = bytes_left.saturating_sub(record.body.len());
                page.documents.push(document(bucket, with_hidden(record)));
            }
            let full = bytes_left == 0 || page.documents.len() >= documents_max;
            let more = place.advance(part.last, session.state.shards);
            // Behind a document that the caller may not read it goes on: the place to continue at would tell its key.
            if !more || ((full || place.after) && !part.is_last_hidden) {
                page.continuation = more.then(|| place.encode());
                return Ok(page);
            }
        }
    }
}

/// The record with its hidden members, if it came with any, at the end of its body. Both are JSON objects without blanks around them.
fn with_hidden(record: Record) -> Record {
    let (Some(body), Some(hidden)) = (
        record.body.strip_suffix(b"}"),
        record.hidden.strip_prefix(b"{"),
    ) else {
        return record;
    };
    let comma: &[u8] = match (body, hidden) {
        (b"{", _) | (_, b"}") => b"",
        _ => b",",
    };
    Record {
        body: [body, comma, hidden].concat().into(),
        hidden: Bytes::new(),
        ..record
    }
}

/// Where a scan is. Its encoded form is what clients get as continuation.
#[derive(Clone, PartialEq, Message)]
struct Place {
    #[prost(uint32, tag = "1")]
    shard: u32,
    /// Where to go on within the shard; empty: at its first key.
    #[prost(string, tag = "2")]
    key: String,
    /// Whether `key` itself was seen.
    #[prost(bool, tag = "3")]
    after: bool,
    /// Only this shard.
    #[prost(bool, tag = "4")]
    single: bool,
}

impl Place {
    fn first(
        state: &ClusterState,
        database: &Database,
        bucket: &BucketInfo,
        start_key: Option<&str>,
    ) -> Place {
        if let Some(key) = start_key {
            let shard = state.shard_of(database, bucket, key).0;
            return Place {
                shard,
                key: key.to_owned(),
                after: false,
                single: true,
            };
        }
        Place {
            shard: 1,
            key: String::new(),
            after: false,
            single: false,
        }
    }

    fn decode(bytes: Bytes, shards: u32) -> Result<Place> {
        let place = Place::decode_wire(bytes).filter(|place| (1..=shards).contains(&place.shard));
        place.ok_or_else(|| Error::bad_request("malformed continuation"))
    }

    fn decode_wire(bytes: Bytes) -> Option<Place> {
        <Place as Message>::decode(bytes).ok()
    }

    fn encode(&self) -> Bytes {
        self.encode_to_vec().into()
    }

    /// Behind `last`, or at the next shard. False at the end of the scan.
    fn advance(&mut self, last: Option<String>, shards: u32) -> bool {
        match last {
            Some(key) => {
                self.key = key;
                self.after = true;
                true
            }
            None => {
                self.shard += 1;
                self.key.clear();
                self.after = false;
                !self.single && self.shard <= shards
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::ErrorCode;

    use super::*;

    #[test]
    fn a_scan_goes_from_shard_to_shard() {
        let mut place = Place {
            shard: 1,
            key: String::new(),
            after: false,
            single: false,
        };
        assert!(place.advance(Some("k".to_owned()), 2));
        assert_eq!(Place::decode(place.encode(), 2).expect("own"), place);
        assert!(place.advance(None, 2));
        assert_eq!(
            (place.shard, place.key.as_str(), place.after),
            (2, "", false)
        );
        assert!(!place.advance(None, 2));
    }

    #[test]
    fn hidden_members_come_behind_the_others() {
        let merged = |body: &'static str, hidden: &'static str| {
            let record = Record {
                body: Bytes::from_static(body.as_bytes()),
                hidden: Bytes::from_static(hidden.as_bytes()),
                ..Record::default()
            };
            String::from_utf8(with_hidden(record).body.to_vec()).expect("text")
        };
        assert_eq!(merged(r#"{"a":1}"#, ""), r#"{"a":1}"#);
        assert_eq!(merged(r#"{"a":1}"#, "{}"), r#"{"a":1}"#);
        assert_eq!(merged("{}", r#"{"_b":2}"#), r#"{"_b":2}"#);
        assert_eq!(merged(r#"{"a":1}"#, r#"{"_b":2}"#), r#"{"a":1,"_b":2}"#);
    }

    #[test]
    fn foreign_continuations_are_refused() {
        for bytes in [
            &b"\xff"[..],
            b"",
            &Place {
                shard: 3,
                ..Place::default()
            }
            .encode_to_vec(),
        ] {
            let error = Place::decode(Bytes::copy_from_slice(bytes), 2).expect_err("refused");
            assert_eq!(error.code, ErrorCode::BadRequest);
        }
    }
}
