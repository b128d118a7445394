//! Founding, log-in, tokens, connect (contract sections 2.1 and 8).

use std::time::{Duration, Instant};

use proto::{ErrorCode, NodeId, ShardId};

use super::{body, json};
use crate::auth::policy;
use crate::auth::token;
use crate::forward::{Operation, Write, Writes};
use crate::testing::{PASSWORD, SHARDS, START_US, TestCluster, anonymous, soon, with_token};
use crate::{Condition, Consistency, Context, InitRequest, Limits, Service};

const MINUTE: Duration = Duration::from_secs(60);
const START: u32 = (START_US / 1_000_000) as u32;

fn limits() -> Limits {
    Limits {
        token_short_life: 60 * MINUTE,
        token_long_life: 24 * 60 * MINUTE,
        ..Limits::default()
    }
}

/// Adds a user with a password, as registration will.
async fn add_user(cluster: &TestCluster, key: &str, name: &str, password: &str) {
    let core = &cluster.service.core;
    let hash = core.passwords.hash(password).await.expect("hashed");
    let ctx = cluster.root().await;
    let session = core.begin(&ctx, &["User"]).await.expect("begun");
    let write = Write {
        bucket: "User".to_owned(),
        key: key.to_owned(),
        condition: Condition::Absent.into(),
        body: body(&format!(r#"{{"username":"{name}"}}"#)),
        hidden: policy::hidden_password(&hash).into(),
        delete: false,
        update: false,
        ends_sessions: false,
    };
    let writes = Writes {
        database: "v1".to_owned(),
        writes: vec![write],
        batch: false,
    };
    let request = session.request(
        cluster.shard_of("User", key),
        None,
        Operation::Write(writes),
    );
    core.route(&session.state, &request, soon())
        .await
        .expect("inserted");
}

fn claims(cluster: &TestCluster, token: &str) -> token::Claims {
    token::verify(&cluster.metadata().signing_keys, 1, token).expect("our token")
}

#[tokio::test]
async fn root_logs_in_and_is_an_admin() {
    let cluster = TestCluster::with_nodes(1, limits()).await;
    let session = cluster
        .service
        .login(&anonymous(), "root", PASSWORD)
        .await
        .expect("logged in");
    assert_eq!(json(&session.user)["id"], "/db/User/1");
    let claims = claims(&cluster, &session.token);
    assert_eq!((claims.user.as_str(), claims.version), ("1", 1));
    assert_eq!((claims.created, claims.expires), (START, START + 3_600));
    let root = with_token(&session.token);
    let classes = cluster.service.add_schema(&root, body("[]")).await;
    classes.expect("an admin");
}

#[tokio::test]
async fn wrong_names_and_passwords_are_alike() {
    let cluster = TestCluster::start().await;
    let password = cluster
        .service
        .login(&anonymous(), "root", "guess")
        .await
        .expect_err("wrong password");
    let name = cluster
        .service
        .login(&anonymous(), "nobody", PASSWORD)
        .await
        .expect_err("wrong name");
    assert_eq!(password, name);
    assert_eq!(password.code, ErrorCode::BadCredentials);
}

#[tokio::test]
async fn an_ordinary_user_has_its_roles_and_loses_them_at_once() {
    let cluster = TestCluster::with_nodes(1, limits()).await;
    let (service, root) = (&cluster.service, cluster.root().await);
    add_user(&cluster, "10", "ann", "pw").await;
    let role = r#"{"name":"staff","users":["/db/User/10"]}"#;
    service
        .put(&root, "Role", Some("20"), body(role), Condition::Absent)
        .await
        .expect("inserted");
    let secret = r#"{"acl":{"read":{"/db/Role/20":"allow"},"write":{"/db/Role/3":"allow"}}}"#;
    service
        .put(&root, "Demo", Some("k"), body(secret), Condition::Absent)
        .await
        .expect("inserted");

    let session = service
        .login(&anonymous(), "ann", "pw")
        .await
        .expect("logged in");
    let ann = with_token(&session.token);
    service
        .get(&ann, "Demo", "k", Consistency::Linearizable)
        .await
        .expect("by role");
    service
        .put(&ann, "Demo", Some("k"), body(secret), Condition::Exists)
        .await
        .expect("by being logged in");
    let refused = service.add_schema(&ann, body("[]")).await;
    assert_eq!(
        refused.map_err(|error| error.code),
        Err(ErrorCode::PermissionDenied)
    );

    service
        .put(
            &root,
            "Role",
            Some("20"),
            body(r#"{"users":[]}"#),
            Condition::Exists,
        )
        .await
        .expect("replaced");
    let gone = service
        .get(&ann, "Demo", "k", Consistency::Linearizable)
        .await;
    assert_eq!(
        gone.map_err(|error| error.code),
        Err(ErrorCode::ObjectNotFound)
    );
}

#[tokio::test]
async fn a_renewed_token_keeps_its_session_and_never_expires_earlier() {
    let cluster = TestCluster::with_nodes(1, limits()).await;
    let first = cluster
        .service
        .login(&anonymous(), "root", PASSWORD)
        .await
        .expect("logged in")
        .token;
    cluster.clock.advance(10 * MINUTE);
    let second = cluster
        .service
        .me(&with_token(&first))
        .await
        .expect("renewed")
        .token;
    let (a, b) = (claims(&cluster, &first), claims(&cluster, &second));
    assert_eq!((b.created, b.expires), (a.created, a.expires + 600));
    // Towards the end of the session there is nothing to add.
    cluster.clock.advance(23 * 60 * MINUTE + 30 * MINUTE);
    let third = cluster
        .service
        .me(&with_token(&second))
        .await
        .expect("renewed")
        .token;
    assert_eq!(claims(&cluster, &third).expires, START + 24 * 3_600);
    let fourth = cluster
        .service
        .me(&with_token(&third))
        .await
        .expect("renewed")
        .token;
    assert_eq!(claims(&cluster, &fourth).expires, START + 24 * 3_600);
    cluster.clock.advance(60 * MINUTE);
    let over = cluster
        .service
        .me(&with_token(&fourth))
        .await
        .expect_err("the session is over");
    assert_eq!(over.code, ErrorCode::BadCredentials);
}

#[tokio::test]
async fn connect_never_fails_for_a_bad_token() {
    let cluster = TestCluster::start().await;
    let service: &Service = &cluster.service;
    let good = cluster.root().await;
    let with = service.connect(&good).await.expect("connected");
    assert!(with.token.is_some() && with.user.is_some());
    for ctx in [anonymous(), with_token("nonsense"), with_token("")] {
        let without = service.connect(&ctx).await.expect("connected");
        assert_eq!((without.token, without.user), (None, None));
        assert_eq!(without.schema, with.schema);
    }
    let refused = service
        .get(
            &with_token("nonsense"),
            "Demo",
            "k",
            Consistency::Linearizable,
        )
        .await;
    assert_eq!(
        refused.map_err(|error| error.code),
        Err(ErrorCode::BadCredentials)
    );
    let refused = service.me(&anonymous()).await;
    assert_eq!(
        refused.map_err(|error| error.code),
        Err(ErrorCode::BadCredentials)
    );
    service.logout(&good).await.expect("nothing to do");
}

#[tokio::test]
async fn connect_goes_on_without_a_metadata_leader() {
    let cluster = TestCluster::start().await;
    cluster.world.elect(ShardId::META, None);
    let connected = cluster
        .service
        .connect(&anonymous())
        .await
        .expect("from the local copy");
    assert!(
        connected
            .schema
            .as_array()
            .is_some_and(|classes| !classes.is_empty())
    );
}

#[tokio::test]
async fn before_founding_everything_is_unavailable() {
    let cluster = TestCluster::unfounded(1, Limits::default());
    let error = cluster
        .service
        .get(&anonymous(), "Demo", "k", Consistency::Linearizable)
        .await
        .expect_err("not founded");
    assert_eq!(error.code, ErrorCode::Unavailable);
    assert!(cluster.service.ready().is_err());
    assert_eq!(
        cluster.service.cluster_status().health,
        crate::status::Health::Uninitialized
    );
}

#[tokio::test]
async fn founding_twice_is_founding_once() {
    let cluster = TestCluster::with_nodes(3, Limits::default()).await;
    let again = cluster
        .node(2)
        .init_cluster(cluster.init_request())
        .await
        .expect("found founded");
    assert!(!again.created);
    assert_eq!(again.root_password, None);
    assert_eq!(cluster.metadata().cluster_id, again.cluster_id);
    assert_eq!(cluster.metadata().replicas, 3);
}

#[tokio::test]
async fn founding_checks_what_it_is_asked() {
    let cluster = TestCluster::unfounded(1, Limits::default());
    let good = cluster.init_request();
    for bad in [
        InitRequest {
            shards: 3,
            ..good.clone()
        },
        InitRequest {
            shards: 2_048,
            ..good.clone()
        },
        InitRequest {
            replicas: Some(2),
            ..good.clone()
        },
        InitRequest {
            replicas: Some(0),
            ..good.clone()
        },
        InitRequest {
            root_password: Some("root".to_owned()),
            ..good.clone()
        },
        InitRequest {
            root_password: Some(String::new()),
            ..good.clone()
        },
    ] {
        let error = cluster
            .service
            .init_cluster(bad)
            .await
            .expect_err("refused");
        assert_eq!(error.code, ErrorCode::BadRequest);
    }
    let made = cluster
        .service
        .init_cluster(InitRequest {
            root_password: None,
            ..good
        })
        .await
        .expect("founded");
    let password = made.root_password.expect("made");
    cluster
        .service
        .login(&anonymous(), "root", &password)
        .await
        .expect("it works");
}

#[tokio::test]
async fn a_log_in_before_root_is_written_waits_and_is_never_called_wrong() {
    let cluster = TestCluster::unfounded(1, Limits::default());
    // Nobody takes the writes of the predefined users.
    for shard in 1..=SHARDS {
        cluster.world.elect(ShardId(shard), None);
    }
    let (service, request) = (cluster.service.clone(), cluster.init_request());
    let founding = tokio::spawn(async move { service.init_cluster(request).await });
    while !cluster.metadata().is_initialized() {
        tokio::task::yield_now().await;
    }
    let hasty = Context {
        deadline: Instant::now() + Duration::from_millis(200),
        ..anonymous()
    };
    let refused = cluster.service.login(&hasty, "root", PASSWORD).await;
    let refused = refused.expect_err("root is not there yet");
    assert_eq!(refused.code, ErrorCode::Unavailable, "{refused}");
    let (service, patient) = (cluster.service.clone(), anonymous());
    let login = tokio::spawn(async move { service.login(&patient, "root", PASSWORD).await });
    cluster.world.elect_everywhere(NodeId(1));
    login.await.expect("runs").expect("root logs in");
    founding.await.expect("runs").expect("founded");
}
