//! Quotas, and what is written into audit logs.

use proto::log::AuditHead;
use proto::{Effect, ErrorCode, ShardId};
use storage::audit::Record;

use super::{body, put};
use crate::audit::Action;
use crate::testing::{SHARDS, TestCluster, anonymous, soon};
use crate::{Condition, Error, Service};

/// One look of the job at every shard.
async fn count(cluster: &TestCluster) {
    let job = cluster.service.jobs().quota;
    for shard in 1..=SHARDS {
        let state = cluster.metadata();
        job.look(&state, ShardId(shard), true)
            .await
            .expect("counted");
    }
}

async fn limit(service: &Service, documents: u64, bytes: u64) {
    let set = service.set_quota("", documents, bytes, soon()).await;
    let set = set.expect("set");
    assert_eq!((set.documents_max, set.bytes_max), (documents, bytes));
}

fn refused(result: Result<impl std::fmt::Debug, Error>) {
    let error = result.expect_err("over the quota");
    assert_eq!(
        (error.code, error.effect),
        (ErrorCode::QuotaExceeded, Effect::None)
    );
    assert!(error.message.contains("larder database quota"), "{error}");
}

#[tokio::test]
async fn a_full_database_takes_no_more_documents_until_some_are_gone() {
    let cluster = TestCluster::start().await;
    let (service, ctx) = (&cluster.service, anonymous());
    put(&cluster, &ctx, "a", r#"{"n":1}"#, Condition::None)
        .await
        .expect("no quota yet");
    assert!(service.quotas().is_empty());
    limit(service, 1, 0).await;
    // Predefined users and roles are documents as well.
    count(&cluster).await;
    let status = service.quotas().remove(0);
    assert!(status.counted && status.full, "{status:?}");
    assert!(status.documents > 1 && status.bytes > 0, "{status:?}");
    let before = cluster.world.document_proposals();
    refused(put(&cluster, &ctx, "b", "{}", Condition::None).await);
    refused(put(&cluster, &ctx, "b", "{}", Condition::Absent).await);
    assert_eq!(
        cluster.world.document_proposals(),
        before,
        "nothing was proposed"
    );
    // What is there may change.
    put(&cluster, &ctx, "a", r#"{"n":2}"#, Condition::Exists)
        .await
        .expect("replaced");
    service
        .update(
            &ctx,
            "Demo",
            "a",
            body(r#"{"$inc":{"n":1}}"#),
            Condition::None,
        )
        .await
        .expect("updated");
    // One may come for each that goes.
    limit(service, status.documents, 0).await;
    refused(put(&cluster, &ctx, "b", "{}", Condition::None).await);
    service
        .delete(&ctx, "Demo", "a", Condition::None)
        .await
        .expect("deletes go on");
    count(&cluster).await;
    put(&cluster, &ctx, "b", "{}", Condition::None)
        .await
        .expect("there is room");
    limit(service, 0, 1).await;
    refused(put(&cluster, &ctx, "b", "{}", Condition::Exists).await);
    service
        .delete(&ctx, "Demo", "b", Condition::None)
        .await
        .expect("deletes go on");
    limit(service, 0, 0).await;
    put(&cluster, &ctx, "b", "{}", Condition::None)
        .await
        .expect("no limit");
}

#[tokio::test]
async fn a_quota_is_for_a_database_that_is_there() {
    let cluster = TestCluster::start().await;
    let set = cluster.service.set_quota("nowhere", 1, 1, soon()).await;
    assert_eq!(set.expect_err("unknown").code, ErrorCode::BucketNotFound);
}

/// The records of a shard, whose chain is checked.
async fn trail(cluster: &TestCluster, shard: u32) -> Vec<Record> {
    let page = cluster.service.trail(ShardId(shard), 0, soon()).await;
    let page = page.expect("read");
    let mut checker = page.before.clone();
    let records = page
        .records
        .iter()
        .map(|(hash, text)| checker.take(text, hash).expect("fits"));
    let records: Vec<Record> = records.collect();
    assert_eq!(checker.next, page.last + 1);
    records
}

#[tokio::test]
async fn what_admins_do_is_written_down_with_their_names() {
    let cluster = TestCluster::start().await;
    cluster
        .add_class(r#"[{"class":"/db/Todo","fields":{"n":{"name":"n","type":"/db/Integer"}}}]"#)
        .await;
    limit(&cluster.service, 5, 0).await;
    let root = cluster.root().await;
    cluster
        .service
        .truncate(&root, "Demo", None)
        .await
        .expect("truncated");
    let all = trail(&cluster, 0).await;
    let of = |action: &str| {
        let found = all.iter().find(|record| record.action == action);
        found
            .unwrap_or_else(|| panic!("{action}: {all:#?}"))
            .clone()
    };
    assert_eq!(of("schema_changed").user, "/db/User/1");
    assert_eq!(of("bucket_truncated").target, "Demo");
    assert_eq!(of("quota_set").detail, "5 documents, 0 bytes");
    assert_eq!(of("cluster_founded").user, "");
    // Predefined users are documents of some shard.
    let mut created = 0;
    for shard in 1..=SHARDS {
        let records = trail(&cluster, shard).await;
        created += records
            .iter()
            .filter(|record| record.action == "user_created")
            .count();
    }
    assert_eq!(created, 1);
}

#[tokio::test]
async fn heads_are_written_down_once() {
    let cluster = TestCluster::start().await;
    let mut job = cluster.service.jobs().trail;
    let anchors = || async {
        let all = trail(&cluster, 0).await;
        all.into_iter()
            .filter(|record| record.action == "anchored")
            .collect::<Vec<_>>()
    };
    job.anchor().await.expect("anchored");
    let first = anchors().await;
    assert!(!first.is_empty());
    for record in &first {
        let (chain, sequence, hash) = cluster::anchored(record).expect("an anchor");
        let number: u32 = chain["shard-".len()..].parse().expect("a shard");
        let page = cluster.service.trail(ShardId(number), 0, soon()).await;
        let page = page.expect("read");
        assert_eq!(page.last, sequence);
        assert_eq!(page.records.last().expect("a record").0[..], hash);
    }
    job.anchor().await.expect("nothing is new");
    assert_eq!(anchors().await.len(), first.len());
    let node = AuditHead {
        chain: "node-1".to_owned(),
        sequence: 3,
        hash: vec![7; 32].into(),
    };
    cluster
        .service
        .anchor_audit(vec![node], soon())
        .await
        .expect("anchored");
    assert_eq!(anchors().await.len(), first.len() + 1);
}

#[tokio::test]
async fn log_ins_are_noted_and_what_the_node_could_not_judge_is_not() {
    let cluster = TestCluster::start().await;
    let _ = cluster.service.audit_taken();
    let ctx = anonymous();
    for _ in 0..3 {
        let wrong = cluster.service.login(&ctx, "root", "wrong").await;
        wrong.expect_err("wrong");
    }
    cluster.root().await;
    let noted: Vec<_> = cluster
        .service
        .audit_taken()
        .into_iter()
        .map(|noted| (noted.event.action, noted.event.user, noted.count))
        .collect();
    assert_eq!(
        noted,
        [
            (Action::LoginFailed, "root".to_owned(), 3),
            (Action::LoggedIn, "root".to_owned(), 1)
        ]
    );
}
