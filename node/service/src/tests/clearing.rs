//! Dropped buckets: their documents are deleted everywhere, each with its event, whatever happens meanwhile, and nobody gets them back.

use std::ops::Bound;
use std::sync::Arc;

use cluster::clearing::Cleared;
use cluster::state::{BucketInfo, ClusterState};
use proto::{NodeId, ShardId};
use storage::tables::change_log::{self, Operation};
use storage::tables::{documents, indexes};

use super::body;
use crate::testing::{Fault, SHARDS, TestCluster, anonymous, soon};
use crate::{Condition, Limits, QueryRequest};

/// More than one page in each shard.
const DOCUMENTS: u64 = 1_000;
const CLASS: &str = r#"[{"class":"/db/Todo","fields":{"n":{"name":"n","type":"/db/Integer"}}}]"#;

async fn filled() -> TestCluster {
    let cluster = TestCluster::with_nodes(2, Limits::default()).await;
    cluster.add_class(CLASS).await;
    let root = cluster.root().await;
    let index = body(r#"{"keys":[{"n":"asc"}]}"#);
    let made = cluster.service.change_index(&root, "Todo", index);
    made.await.expect("made");
    let (service, ctx) = (&cluster.service, anonymous());
    for at in 0..DOCUMENTS {
        let text = body(&format!(r#"{{"n":{at}}}"#));
        let key = format!("k{at}");
        let put = service.put(&ctx, "Todo", Some(&key), text, Condition::Absent);
        put.await.expect("stored");
    }
    cluster
}

fn dropped(state: &Arc<ClusterState>) -> Option<BucketInfo> {
    let database = state.database("").expect("a database");
    database.dropped_buckets.values().next().cloned()
}

/// Waits until everything is gone.
async fn cleared(cluster: &TestCluster) -> BucketInfo {
    let is_over = |state: &Arc<ClusterState>| {
        let is_cleared = dropped(state).is_some_and(|bucket| bucket.cleared == Cleared::All);
        is_cleared
            && state
                .database("")
                .is_some_and(|database| database.indexes.len() == 1)
    };
    let state = cluster.service.core.metadata.wait(soon(), is_over).await;
    dropped(&state.expect("in time")).expect("it is known")
}

/// Documents of a bucket, deletes that were told of, and entries of indexes, in all shards.
fn left(cluster: &TestCluster, bucket: u32) -> (u64, u64, usize) {
    let (mut found, mut deletes, mut entries) = (0, 0, 0);
    for shard in 1..=SHARDS {
        let replica = cluster.world.replica(ShardId(shard));
        let view = replica.view();
        found += documents::scan(&view, 1, bucket, Bound::Unbounded).count() as u64;
        let events = change_log::scan(&view, Bound::Unbounded);
        let events = events.map(|event| event.expect("reads").1);
        deletes += events
            .filter(|event| event.bucket == bucket && event.operation == Operation::Delete)
            .count() as u64;
        entries += indexes::of_bucket(&view, 1, bucket).expect("reads").len();
    }
    (found, deletes, entries)
}

#[tokio::test]
async fn a_dropped_class_takes_its_documents_along_and_comes_back_without_them() {
    let cluster = filled().await;
    let root = cluster.root().await;
    let (service, ctx) = (&cluster.service, anonymous());
    // Replies are lost, and shards refuse for a while.
    let faults = [Fault::LostApplied, Fault::Overloaded, Fault::LostUnapplied];
    service.drop_class(&root, "Todo").await.expect("dropped");
    cluster.world.propose_script.lock().extend(faults);
    // The name is free at once.
    cluster.add_class(CLASS).await;
    let counted = service.count(&ctx, "Todo", QueryRequest::default());
    assert_eq!(counted.await.expect("counted").count, 0);
    let text = body(r#"{"n":7}"#);
    let put = service.put(&ctx, "Todo", Some("k7"), text, Condition::Absent);
    assert_eq!(put.await.expect("stored").document.version, 1);
    cluster.clear_dropped();
    let bucket = cleared(&cluster).await;
    assert_eq!(left(&cluster, bucket.id), (0, DOCUMENTS, 0));
    let counted = service.count(&ctx, "Todo", QueryRequest::default());
    assert_eq!(counted.await.expect("counted").count, 1);
    assert_eq!(service.cluster_status().clearing, []);
}

#[tokio::test]
async fn what_one_leader_has_begun_another_one_ends() {
    let cluster = filled().await;
    let root = cluster.root().await;
    // The last shard cannot go on, so the others are noted and this one is not.
    cluster
        .service
        .drop_class(&root, "Todo")
        .await
        .expect("dropped");
    cluster.world.elect(ShardId(SHARDS), None);
    cluster.clear_dropped();
    let bucket = dropped(&cluster.metadata()).expect("it is known").id;
    let replica = cluster.world.replica(ShardId(1));
    let has_any = || documents::scan(&replica.view(), 1, bucket, Bound::Unbounded).count() > 0;
    while has_any() {
        tokio::task::yield_now().await;
    }
    let status = cluster.service.cluster_status().clearing;
    assert_eq!((status.len(), status[0].bucket.as_str()), (1, "Todo"));
    cluster.world.elect_everywhere(NodeId(2));
    let bucket = cleared(&cluster).await;
    assert_eq!(left(&cluster, bucket.id), (0, DOCUMENTS, 0));
}
