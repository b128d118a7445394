//! Batches that are not atomic: each write for itself, with its own result. An atomic batch is one entry of one shard's log (`documents`).

use std::collections::HashMap;

use document::acl::Principal;
use futures::stream::{self, StreamExt as _};

use crate::Core;
use crate::context::{BatchOperation, BatchWrite, Context, Document};
use crate::error::Result;
use crate::ids;

/// Writes of one batch that are under way at the same time: enough to fill the group commits of several shards, and few beside the
/// requests of others.
const SIDE_BY_SIDE_MAX: usize = 16;

impl Core {
    pub(crate) async fn batch_each(
        &self,
        ctx: &Context,
        batch: Vec<BatchWrite>,
    ) -> Result<Vec<Result<Document>>> {
        self.check_idempotency_key(ctx)?;
        self.check_batch(&batch)?;
        let lines = lines(batch).into_iter().map(|line| async move {
            let mut results = Vec::with_capacity(line.len());
            for (ordinal, write) in line {
                let ctx = of_write(ctx, ordinal);
                results.push((ordinal, Box::pin(self.write_of_batch(&ctx, write)).await));
            }
            results
        });
        let done = stream::iter(lines).buffer_unordered(SIDE_BY_SIDE_MAX);
        let mut results: Vec<_> = done
            .collect::<Vec<_>>()
            .await
            .into_iter()
            .flatten()
            .collect();
        results.sort_by_key(|(ordinal, _)| *ordinal);
        Ok(results.into_iter().map(|(_, result)| result).collect())
    }

    async fn write_of_batch(&self, ctx: &Context, write: BatchWrite) -> Result<Document> {
        let BatchWrite {
            bucket,
            key,
            condition,
            operation,
        } = write;
        match operation {
            BatchOperation::Put(body) => {
                let key = Some(key.as_str()).filter(|key| !key.is_empty());
                let put = self.put(ctx, &bucket, key, body, condition);
                put.await.map(|written| written.document)
            }
            BatchOperation::Update(operations) => {
                self.update(ctx, &bucket, &key, operations, condition).await
            }
            BatchOperation::Delete => {
                let deleted = self.delete(ctx, &bucket, &key, condition).await?;
                Ok(Document {
                    bucket,
                    key,
                    version: 0,
                    body: bytes::Bytes::new(),
                    served: deleted.served,
                    keep: None,
                })
            }
        }
    }
}

/// A write and its place in the batch.
type Placed = (usize, BatchWrite);

/// The writes in lines: those of one document behind each other, in order.
fn lines(batch: Vec<BatchWrite>) -> Vec<Vec<Placed>> {
    let mut by_document: HashMap<(String, String), usize> = HashMap::new();
    let mut lines: Vec<Vec<Placed>> = Vec::new();
    for placed in batch.into_iter().enumerate() {
        let write = &placed.1;
        if write.key.is_empty() {
            lines.push(vec![placed]);
            continue;
        }
        let document = (write.bucket.clone(), write.key.clone());
        let line = *by_document.entry(document).or_insert(lines.len());
        match lines.get_mut(line) {
            Some(line) => line.push(placed),
            None => lines.push(vec![placed]),
        }
    }
    lines
}

/// The context of one write: its idempotency key is made of that of the batch and its place.
fn of_write(ctx: &Context, ordinal: usize) -> Context {
    let key = ctx.idempotency_key.as_ref();
    // No database, bucket or user has these: a key that was made for a document is never this one.
    let nobody = Principal::anonymous();
    let idempotency_key = key.map(|key| ids::derived_key(0, 0, &nobody, key, ordinal));
    Context {
        idempotency_key,
        ..ctx.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::Condition;

    #[test]
    fn writes_of_one_document_stand_in_one_line() {
        let keys = ["a", "b", "", "a", "", "b", "a"];
        let write = |key: &&str| BatchWrite {
            bucket: "Demo".to_owned(),
            key: (*key).to_owned(),
            condition: Condition::None,
            operation: BatchOperation::Delete,
        };
        let places: Vec<Vec<usize>> = lines(keys.iter().map(write).collect())
            .into_iter()
            .map(|line| line.into_iter().map(|(ordinal, _)| ordinal).collect())
            .collect();
        assert_eq!(places, [vec![0, 3, 6], vec![1, 5], vec![2], vec![4]]);
    }
}
