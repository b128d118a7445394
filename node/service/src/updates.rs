//! Partial updates at the asked node: which document, which shard. The operations are the leader's to read.

use bytes::Bytes;
use document::{body, update};

use crate::Core;
use crate::context::{Condition, Context, Document};
use crate::error::Result;
use crate::forward::Write;

impl Core {
    pub(crate) async fn update(
        &self,
        ctx: &Context,
        bucket: &str,
        key: &str,
        operations: Bytes,
        condition: Condition,
    ) -> Result<Document> {
        self.check_key(key)?;
        self.check_idempotency_key(ctx)?;
        self.check_body(&operations)?;
        let session = self.begin(ctx, &[bucket]).await?;
        let (database, info) = session.find(ctx, bucket)?;
        let shard = session.state.shard_of(database, info, key);
        let write = Write {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            condition: condition.into(),
            body: operations,
            update: true,
            ..Write::default()
        };
        let (written, served) = self
            .write_one(ctx, &session, shard, database, write)
            .await?;
        Ok(Document {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            version: written.version,
            body: written.body,
            served,
            keep: None,
        })
    }

    pub(crate) async fn update_field(
        &self,
        ctx: &Context,
        bucket: &str,
        key: &str,
        field: &str,
        operations: &Bytes,
        condition: Condition,
    ) -> Result<Document> {
        self.check_body(operations)?;
        let limits = body::Limits {
            depth_max: self.options.limits.depth_max,
        };
        let operations = update::of_field(operations, field, &limits)?;
        self.update(ctx, bucket, key, operations.into(), condition)
            .await
    }
}
