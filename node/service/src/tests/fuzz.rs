//! Whatever text a stranger sends for a token, he is refused, and never somebody.

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use proto::ErrorCode;

use crate::Consistency;
use crate::testing::{PASSWORD, TestCluster, anonymous, with_token};

const CASES: u32 = 2_000;
/// Bytes of one.
const BYTES_MAX: usize = 256;

/// Bytes that make a token of a good one: letters of it changed, cut off, or put in; without any it is made up as a whole.
fn forged(good: &str, bytes: &[u8]) -> String {
    let [kind, at, letters @ ..] = bytes else {
        return String::from_utf8_lossy(bytes).into_owned();
    };
    let letters: String = letters
        .iter()
        .map(|byte| format!("{:x}", byte % 16))
        .collect();
    let at = usize::from(*at) * good.len() / 256;
    let (head, tail) = good.split_at(at);
    match kind % 4 {
        0 => String::from_utf8_lossy(bytes).into_owned(),
        1 => format!("{head}{letters}{tail}"),
        2 => format!("{head}{letters}"),
        _ => format!(
            "{head}{letters}{}",
            tail.get(letters.len()..).unwrap_or_default()
        ),
    }
}

#[test]
fn no_made_up_token_is_somebodys() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.expect("a runtime");
    let (cluster, good) = runtime.block_on(async {
        let cluster = TestCluster::start().await;
        let session = cluster.service.login(&anonymous(), "root", PASSWORD).await;
        (cluster, session.expect("logs in").token)
    });
    let bytes = proptest::collection::vec(any::<u8>(), 0..BYTES_MAX);
    let mut runner = TestRunner::new(ProptestConfig::with_cases(CASES));
    let outcome = runner.run(&bytes, |bytes| {
        let token = forged(&good, &bytes);
        if token != good {
            let ctx = with_token(&token);
            let read = cluster
                .service
                .get(&ctx, "Demo", "k", Consistency::Linearizable);
            let refused = runtime.block_on(read).map_err(|error| error.code);
            prop_assert_eq!(refused.err(), Some(ErrorCode::BadCredentials), "{}", token);
        }
        Ok(())
    });
    outcome.expect("nobody is let in");
}
