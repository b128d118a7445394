//! Registration, passwords, names, mails, roles, and what ends sessions (contract sections 8.2 and 8.3).

use std::time::Duration;

use proto::{ErrorCode, NodeId};
use serde_json::{Map, Value, json};

use super::{body, json};
use crate::auth::policy::{ROLES, USERS};
use crate::testing::{Fault, PASSWORD, SHARDS, TestCluster, anonymous, with_token};
use crate::{Condition, Consistency, Context, Limits, Registered, Registration, Service, Session};

fn registration(name: &str, password: &str) -> Registration {
    let user =
        json!({ "id": null, "acl": {"read": {}, "write": {}}, "username": name, "inactive": null });
    Registration {
        user: user.as_object().cloned().expect("object"),
        password: password.to_owned(),
        login: true,
    }
}

/// Registers, and gives the session.
async fn register(service: &Service, name: &str, password: &str) -> Session {
    match service
        .register(&anonymous(), registration(name, password))
        .await
        .expect("registered")
    {
        Registered::LoggedIn(session) => session,
        other => panic!("{other:?}"),
    }
}

fn id_of(session: &Session) -> String {
    json(&session.user)["id"].as_str().expect("id").to_owned()
}

fn key_of(session: &Session) -> String {
    id_of(session).rsplit('/').next().expect("key").to_owned()
}

/// Reads the user with its own session.
async fn own(service: &Service, session: &Session) -> Result<(), ErrorCode> {
    let ctx = with_token(&session.token);
    service
        .get(&ctx, "User", &key_of(session), Consistency::Linearizable)
        .await
        .map(|_| ())
        .map_err(|error| error.code)
}

fn code<T>(result: crate::Result<T>) -> Result<T, ErrorCode> {
    result.map_err(|error| error.code)
}

/// As long as a node may go on with what it knows.
const BOUND: Duration = Duration::from_secs(4);

#[tokio::test]
async fn who_registers_is_its_own_user_and_names_are_taken_once() {
    let cluster = TestCluster::start().await;
    let service = &cluster.service;
    let session = register(service, "ann", "pw").await;
    let user = json(&session.user);
    let id = id_of(&session);
    assert_eq!(user["username"], "ann");
    assert_eq!(user["inactive"], Value::Null);
    assert_eq!(user["acl"]["read"], json!({ id.clone(): "allow" }));
    assert_eq!(user["acl"]["write"], json!({ id: "allow" }));
    assert!(!String::from_utf8_lossy(&session.user).contains("_password"));
    own(service, &session).await.expect("its own");
    let taken = service
        .register(&anonymous(), registration("ann", "other"))
        .await;
    assert_eq!(code(taken), Err(ErrorCode::ValueTaken));
    service
        .login(&anonymous(), "ann", "pw")
        .await
        .expect("logged in");

    let quiet = Registration {
        login: false,
        ..registration("bob", "pw")
    };
    let registered = service.register(&anonymous(), quiet).await;
    assert!(matches!(registered, Ok(Registered::User(_))));
}

#[tokio::test]
async fn a_registration_cannot_bring_what_only_admins_give() {
    let cluster = TestCluster::start().await;
    let service = &cluster.service;
    let mut wish = registration("ann", "pw");
    wish.user.insert("inactive".to_owned(), json!(true));
    let Ok(Registered::LoggedIn(session)) = service.register(&anonymous(), wish).await else {
        panic!("registered");
    };
    assert_eq!(json(&session.user)["inactive"], Value::Null);
    let bad = |change: fn(&mut Map<String, Value>)| {
        let mut wish = registration("bob", "pw");
        change(&mut wish.user);
        wish
    };
    for wish in [
        bad(|user| drop(user.insert("id".to_owned(), json!("/db/User/1")))),
        bad(|user| drop(user.remove("username"))),
        bad(|user| drop(user.insert("username".to_owned(), json!("")))),
        bad(|user| drop(user.insert("username".to_owned(), json!(7)))),
        registration("bob", ""),
        registration("bob", &"x".repeat(2_000)),
    ] {
        let refused = service.register(&anonymous(), wish).await;
        assert_eq!(code(refused), Err(ErrorCode::BadRequest));
    }
}

#[tokio::test]
async fn another_password_ends_what_rests_on_the_old_one() {
    let cluster = TestCluster::with_nodes(2, Limits::default()).await;
    let service = &cluster.service;
    let first = register(service, "ann", "pw").await;
    own(service, &first).await.expect("good");
    own(cluster.node(2), &first).await.expect("good");
    let wrong = service
        .change_password(&anonymous(), "ann", "guess", "new")
        .await;
    assert_eq!(code(wrong), Err(ErrorCode::BadCredentials));
    let second = service
        .change_password(&anonymous(), "ann", "pw", "new")
        .await
        .expect("changed");
    // In the same second, since no clock has moved.
    assert_eq!(own(service, &first).await, Err(ErrorCode::BadCredentials));
    own(service, &second)
        .await
        .expect("the session of the change");
    let renewed = code(service.me(&with_token(&first.token)).await);
    assert_eq!(renewed, Err(ErrorCode::BadCredentials));
    // Another node at the latest when it has to ask.
    cluster.clock.advance(BOUND);
    assert_eq!(
        own(cluster.node(2), &first).await,
        Err(ErrorCode::BadCredentials)
    );
    own(cluster.node(2), &second).await.expect("good");
    let old = code(service.login(&anonymous(), "ann", "pw").await);
    assert_eq!(old, Err(ErrorCode::BadCredentials));
    let third = service
        .login(&anonymous(), "ann", "new")
        .await
        .expect("logged in");
    own(service, &third).await.expect("good");
    let removed = service
        .remove_password(&with_token(&third.token))
        .await
        .expect("removed");
    own(service, &removed).await.expect("goes on");
    assert_eq!(own(service, &third).await, Err(ErrorCode::BadCredentials));
    let none = code(service.login(&anonymous(), "ann", "new").await);
    assert_eq!(none, Err(ErrorCode::BadCredentials));
}

#[tokio::test]
async fn admins_change_passwords_without_the_old_one_and_nobody_else_does() {
    let cluster = TestCluster::start().await;
    let (service, root) = (&cluster.service, cluster.root().await);
    let ann = register(service, "ann", "pw").await;
    let bob = register(service, "bob", "pw").await;
    let by_bob = service
        .change_password(&with_token(&bob.token), "ann", "", "new")
        .await;
    assert_eq!(code(by_bob), Err(ErrorCode::BadCredentials));
    service
        .change_password(&root, "ann", "", "new")
        .await
        .expect("by root");
    assert_eq!(own(service, &ann).await, Err(ErrorCode::BadCredentials));
    service
        .login(&anonymous(), "ann", "new")
        .await
        .expect("logged in");
}

#[tokio::test]
async fn a_ban_a_delete_and_a_log_out_everywhere_end_sessions() {
    let cluster = TestCluster::start().await;
    let (service, root) = (&cluster.service, cluster.root().await);
    let [ann, bob, cat] = [
        register(service, "ann", "pw").await,
        register(service, "bob", "pw").await,
        register(service, "cat", "pw").await,
    ];
    let banned = body(r#"{"inactive":true}"#);
    service
        .put(
            &root,
            "User",
            Some(&key_of(&ann)),
            banned,
            Condition::Exists,
        )
        .await
        .expect("banned");
    let key = key_of(&bob);
    service
        .delete(&root, "User", &key, Condition::None)
        .await
        .expect("deleted");
    let other = service
        .login(&anonymous(), "cat", "pw")
        .await
        .expect("logged in");
    service
        .logout_everywhere(&with_token(&cat.token))
        .await
        .expect("ended");
    cluster.clock.advance(BOUND);
    for over in [&ann, &bob, &cat, &other] {
        assert_eq!(own(service, over).await, Err(ErrorCode::BadCredentials));
    }
    let again = service
        .login(&anonymous(), "cat", "pw")
        .await
        .expect("logged in");
    own(service, &again).await.expect("good");
    for name in ["ann", "bob"] {
        let login = code(service.login(&anonymous(), name, "pw").await);
        assert_eq!(login, Err(ErrorCode::BadCredentials));
    }
    // The name is free again, and its new user has nothing of the old one.
    let new = register(service, "bob", "pw").await;
    own(service, &new).await.expect("good");
}

#[tokio::test]
async fn roles_are_those_of_now_and_an_assumed_one_is_all_there_is() {
    let cluster = TestCluster::start().await;
    let (service, root) = (&cluster.service, cluster.root().await);
    let ann = register(service, "ann", "pw").await;
    let ctx = with_token(&ann.token);
    let secret = body(r#"{"acl":{"read":{"/db/Role/20":"allow"},"write":{}}}"#);
    service
        .put(&root, "Demo", Some("k"), secret, Condition::Absent)
        .await
        .expect("inserted");
    let read = |ctx: Context| async move {
        code(
            service
                .get(&ctx, "Demo", "k", Consistency::Linearizable)
                .await,
        )
        .map(|_| ())
    };
    let staff = |users: Value| body(&json!({ "name": "staff", "users": users }).to_string());
    assert_eq!(read(ctx.clone()).await, Err(ErrorCode::ObjectNotFound));
    let refused = code(service.assume_role(&ctx, "20").await);
    assert_eq!(refused, Err(ErrorCode::PermissionDenied));
    service
        .put(
            &root,
            ROLES,
            Some("20"),
            staff(json!([id_of(&ann)])),
            Condition::None,
        )
        .await
        .expect("a member");
    // The same token, at the node that acknowledged the change.
    assert_eq!(read(ctx.clone()).await, Ok(()));
    let assumed = service.assume_role(&ctx, "20").await.expect("assumed");
    assert_eq!(read(with_token(&assumed.token)).await, Ok(()));
    let root_as_staff = service.assume_role(&root, "20").await.expect("assumed");
    let root_as_staff = with_token(&root_as_staff.token);
    assert_eq!(read(root_as_staff.clone()).await, Ok(()));
    let schema = code(service.add_schema(&root_as_staff, body("[]")).await);
    assert_eq!(schema, Err(ErrorCode::PermissionDenied), "no admin now");
    service
        .put(&root, ROLES, Some("20"), staff(json!([])), Condition::None)
        .await
        .expect("no member");
    assert_eq!(read(ctx).await, Err(ErrorCode::ObjectNotFound));
    let lost = read(with_token(&assumed.token)).await;
    assert_eq!(lost, Err(ErrorCode::BadCredentials));
}

#[tokio::test]
async fn a_node_that_nobody_confirms_judges_no_token() {
    let cluster = TestCluster::with_nodes(2, Limits::default()).await;
    let shard = cluster.shard_of(ROLES, "");
    // The shard of the roles will answer nobody: a user that lies in another one can be read all the same.
    let mut names = 0..;
    let ann = loop {
        let name = format!("ann-{}", names.next().expect("a number"));
        let user = register(&cluster.service, &name, "pw").await;
        if cluster.shard_of(USERS, &key_of(&user)) != shard {
            break user;
        }
    };
    let elsewhere = cluster.node(2);
    own(elsewhere, &ann).await.expect("good");
    cluster
        .world
        .unconfirmed
        .lock()
        .insert(shard, std::time::Instant::now());
    own(elsewhere, &ann)
        .await
        .expect("what was confirmed lately");
    cluster.clock.advance(BOUND);
    // The leader that was cut off, and whoever believes it.
    for node in [&cluster.service, elsewhere] {
        assert_eq!(own(node, &ann).await, Err(ErrorCode::Unavailable));
    }
    cluster.world.unconfirmed.lock().remove(&shard);
    own(elsewhere, &ann).await.expect("good again");
}

#[tokio::test]
async fn a_leader_that_dies_before_it_told_leaves_a_note_that_another_finds() {
    let cluster = TestCluster::with_nodes(2, Limits::default()).await;
    let service = &cluster.service;
    let ann = register(service, "ann", "pw").await;
    own(service, &ann).await.expect("good");
    let roles = cluster.shard_of(ROLES, "");
    let user = cluster.shard_of("User", &key_of(&ann));
    if roles == user {
        // Both steps would stop at once; the next key is likely elsewhere, and the way is the same.
        return;
    }
    // The write is acknowledged by nobody: the shard of the roles does not answer.
    cluster.world.elect(roles, None);
    let hasty = Context {
        deadline: std::time::Instant::now() + Duration::from_millis(300),
        ..anonymous()
    };
    let changed = service.change_password(&hasty, "ann", "pw", "new").await;
    let error = changed.expect_err("not everywhere yet");
    assert_ne!(error.effect, proto::Effect::None);
    cluster.world.elect(user, Some(NodeId(2)));
    cluster.world.elect(roles, Some(NodeId(2)));
    // The job of the new leader tells.
    loop {
        cluster.clock.advance(BOUND);
        match own(service, &ann).await {
            Err(ErrorCode::BadCredentials) => break,
            Ok(()) | Err(ErrorCode::Unavailable) => tokio::task::yield_now().await,
            other => panic!("{other:?}"),
        }
    }
    service
        .login(&anonymous(), "ann", "new")
        .await
        .expect("written");
}

#[tokio::test]
async fn a_reset_works_once_and_only_by_the_newest_mail() {
    let cluster = TestCluster::start().await;
    let service = &cluster.service;
    let ann = register(service, "ann@example.com", "pw").await;
    service
        .want_reset(&anonymous(), "nobody@example.com")
        .await
        .expect("taken");
    service
        .want_reset(&anonymous(), "ann@example.com")
        .await
        .expect("taken");
    let first = cluster.world.mail().await;
    assert_eq!(first.to, "ann@example.com");
    service
        .want_reset(&anonymous(), "ann@example.com")
        .await
        .expect("taken");
    let [first, second] =
        [first, cluster.world.mail().await].map(|mail| token_in(&mail.text, "bq-token"));
    let by_first = code(service.reset_password(&anonymous(), &first, "new").await);
    assert_eq!(
        by_first,
        Err(ErrorCode::BadCredentials),
        "there is a newer one"
    );
    own(service, &ann).await.expect("nothing happened yet");
    let session = service
        .reset_password(&anonymous(), &second, "new")
        .await
        .expect("reset");
    own(service, &session).await.expect("logged in");
    assert_eq!(own(service, &ann).await, Err(ErrorCode::BadCredentials));
    let again = code(service.reset_password(&anonymous(), &second, "newer").await);
    assert_eq!(again, Err(ErrorCode::BadCredentials), "used");
    // A token of a mail is none for requests, and the reverse.
    let request = code(service.me(&with_token(&second)).await);
    assert_eq!(request, Err(ErrorCode::BadCredentials));
    let session = code(
        service
            .reset_password(&anonymous(), &session.token, "x")
            .await,
    );
    assert_eq!(session, Err(ErrorCode::BadCredentials));
    // And it has a time.
    service
        .want_reset(&anonymous(), "ann@example.com")
        .await
        .expect("taken");
    let third = token_in(&cluster.world.mail().await.text, "bq-token");
    cluster.clock.advance(Duration::from_secs(3_700));
    let late = code(service.reset_password(&anonymous(), &third, "late").await);
    assert_eq!(late, Err(ErrorCode::BadCredentials));
}

#[tokio::test]
async fn an_address_is_confirmed_before_the_first_log_in_and_changed_by_a_mail_to_the_new_one() {
    let cluster = TestCluster::with_accounts(1, Limits::default(), true);
    cluster
        .service
        .init_cluster(cluster.init_request())
        .await
        .expect("founded");
    let service = &cluster.service;
    let no_address = code(
        service
            .register(&anonymous(), registration("ann", "pw"))
            .await,
    );
    assert_eq!(no_address, Err(ErrorCode::BadRequest));
    let registered = service
        .register(&anonymous(), registration("ann@example.com", "pw"))
        .await;
    assert_eq!(registered, Ok(Registered::Mailed));
    let early = code(service.login(&anonymous(), "ann@example.com", "pw").await);
    assert_eq!(early, Err(ErrorCode::BadCredentials));
    let token = token_in(&cluster.world.mail().await.text, "token");
    service
        .verify_address(&anonymous(), &token)
        .await
        .expect("confirmed");
    let again = code(service.verify_address(&anonymous(), &token).await);
    assert_eq!(again, Err(ErrorCode::BadCredentials), "used");
    let ann = service
        .login(&anonymous(), "ann@example.com", "pw")
        .await
        .expect("logged in");

    let nobody = anonymous();
    let wish =
        |password| service.want_name(&nobody, "ann@example.com", "anna@example.com", password);
    assert_eq!(code(wish("guess").await), Err(ErrorCode::BadCredentials));
    wish("pw").await.expect("mailed");
    let mail = cluster.world.mail().await;
    assert_eq!(mail.to, "anna@example.com");
    let token = token_in(&mail.text, "token");
    service
        .verify_name(&anonymous(), &token)
        .await
        .expect("renamed");
    let again = code(service.verify_name(&anonymous(), &token).await);
    assert_eq!(again, Err(ErrorCode::BadCredentials), "used");
    own(service, &ann).await.expect("a name ends no session");
    service
        .login(&anonymous(), "anna@example.com", "pw")
        .await
        .expect("logged in");
    let old = code(service.login(&anonymous(), "ann@example.com", "pw").await);
    assert_eq!(old, Err(ErrorCode::BadCredentials));
    // By itself nobody changes it.
    let ctx = with_token(&ann.token);
    let put = service
        .put(
            &ctx,
            "User",
            Some(&key_of(&ann)),
            body(r#"{"username":"root2","inactive":true}"#),
            Condition::Exists,
        )
        .await
        .expect("its own document");
    let stored = json(&put.document.body);
    assert_eq!(
        (&stored["username"], &stored["inactive"]),
        (&json!("anna@example.com"), &json!(false))
    );
}

#[tokio::test]
async fn names_are_found_whichever_shard_and_while_they_are_being_taken() {
    let cluster = TestCluster::start().await;
    let service = &cluster.service;
    for at in 0..SHARDS * 2 {
        register(service, &format!("user {at}"), "pw").await;
    }
    let barriers = *cluster.world.barriers.lock();
    service
        .login(&anonymous(), "user 3", "pw")
        .await
        .expect("logged in");
    // By the index: the value's shard and the user's, not all of them.
    assert!(*cluster.world.barriers.lock() - barriers < u64::from(SHARDS));
    // A reservation without a user is no user.
    cluster
        .world
        .propose_script
        .lock()
        .extend([Fault::Applied, Fault::LostUnapplied]);
    let lost = service
        .register(&anonymous(), registration("ghost", "pw"))
        .await;
    assert!(lost.is_err());
    let ghost = code(service.login(&anonymous(), "ghost", "pw").await);
    assert_eq!(ghost, Err(ErrorCode::BadCredentials));
    let root = service.login(&anonymous(), "root", PASSWORD).await;
    assert!(root.is_ok());
}

#[tokio::test]
async fn guessing_is_stopped_and_says_when_to_go_on() {
    let cluster = TestCluster::start().await;
    let service = &cluster.service;
    register(service, "ann", "pw").await;
    let mut refused = None;
    for _ in 0..20 {
        let guess = service
            .login(&anonymous(), "ann", "guess")
            .await
            .expect_err("wrong");
        if guess.code != ErrorCode::BadCredentials {
            refused = Some(guess);
            break;
        }
    }
    let refused = refused.expect("stopped");
    assert_eq!(refused.code, ErrorCode::TooManyRequests);
    assert!(refused.retry_after.is_some());
    cluster.clock.advance(Duration::from_secs(60));
    service
        .login(&anonymous(), "ann", "pw")
        .await
        .expect("time has passed");
}

#[tokio::test]
async fn keys_rotate_without_ending_sessions_unless_they_are_to_be_forgotten() {
    let cluster = TestCluster::with_nodes(2, Limits::default()).await;
    let service = &cluster.service;
    let first = register(service, "ann", "pw").await;
    cluster.clock.advance(Duration::from_secs(60));
    let key = service
        .rotate_signing_key(false, crate::testing::soon())
        .await
        .expect("rotated");
    assert_eq!(key, 1);
    own(cluster.node(2), &first)
        .await
        .expect("the old key verifies");
    let second = service
        .login(&anonymous(), "ann", "pw")
        .await
        .expect("logged in");
    assert_ne!(first.token, second.token);
    own(cluster.node(2), &second)
        .await
        .expect("the new one signs");
    service
        .rotate_signing_key(true, crate::testing::soon())
        .await
        .expect("rotated");
    for over in [&first, &second] {
        assert_eq!(own(service, over).await, Err(ErrorCode::BadCredentials));
    }
    let third = service
        .login(&anonymous(), "ann", "pw")
        .await
        .expect("logged in");
    own(service, &third).await.expect("good");
    assert_eq!(cluster.metadata().signing_keys.iter().count(), 1);
}

#[tokio::test]
async fn what_no_token_is_old_enough_for_is_forgotten_everywhere() {
    let limits = Limits {
        token_long_life: Duration::from_secs(60),
        ..Limits::default()
    };
    let cluster = TestCluster::with_nodes(1, limits).await;
    let service = &cluster.service;
    let ann = register(service, "ann", "pw").await;
    service
        .logout_everywhere(&with_token(&ann.token))
        .await
        .expect("ended");
    let again = service
        .login(&anonymous(), "ann", "pw")
        .await
        .expect("logged in");
    own(service, &again).await.expect("good");
    let core = &service.core;
    let followed = core.rights.of(1, Duration::ZERO);
    // Nothing is old enough in a shard that is younger than that.
    service.jobs().session_ends.forget().await;
    core.rights.outdate(1);
    assert_eq!(own(service, &ann).await, Err(ErrorCode::BadCredentials));
    assert_eq!(followed.copy.size().0, 1);
    // T moves with the writes of its shard.
    let two_days = Duration::from_secs(2 * 24 * 60 * 60);
    let root = cluster.root().await;
    let role = || {
        service.put(
            &root,
            ROLES,
            Some("20"),
            body(r#"{"users":[]}"#),
            Condition::None,
        )
    };
    role().await.expect("written");
    cluster.clock.advance(two_days);
    let root = cluster.root().await;
    let role = || {
        service.put(
            &root,
            ROLES,
            Some("20"),
            body(r#"{"users":[]}"#),
            Condition::None,
        )
    };
    role().await.expect("written");
    service.jobs().session_ends.forget().await;
    let last = service
        .login(&anonymous(), "ann", "pw")
        .await
        .expect("logged in");
    own(service, &last).await.expect("good");
    assert_eq!(followed.copy.size().0, 0);
}

/// The token in a mail's link.
fn token_in(text: &str, parameter: &str) -> String {
    let start = text.find(&format!("{parameter}=")).expect("a link") + parameter.len() + 1;
    text[start..]
        .chars()
        .take_while(char::is_ascii_hexdigit)
        .collect()
}
