//! Time-based one-time codes (RFC 6238): six digits, steps of 30 seconds, HMAC-SHA1, which is what every authenticator app takes.
//!
//! Pure: the time is given. A code counts for its own step and the ones beside it, and never for a step that a code was taken for
//! before: whoever reads a code over somebody's shoulder cannot use it again.

use rand::RngCore as _;
use totp_rs::{Builder, Secret, Totp};

/// Bytes of a secret, as RFC 4226 recommends.
const SECRET_BYTES: usize = 20;
/// Digits of a code.
const DIGITS: usize = 6;
/// Steps before and after now whose codes are taken too: clocks differ, and people type slowly.
const SKEW: u16 = 1;

/// A new secret in base32, as it is stored and shown.
pub(crate) fn new_secret() -> String {
    let mut bytes = [0; SECRET_BYTES];
    rand::rng().fill_bytes(&mut bytes);
    Secret::new(Box::new(bytes)).to_base32()
}

/// What an authenticator app is set up with: `otpauth://totp/…`.
pub(crate) fn key_uri(secret: &str, issuer: &str, account: &str) -> Option<String> {
    // A colon parts issuer and account in the label.
    let plain = |text: &str| text.replace(':', " ");
    let builder = Builder::new()
        .with_secret(Secret::try_from_base32(secret).ok()?)
        .with_skew(SKEW)
        .with_issuer(Some(plain(issuer)))
        .with_account_name(plain(account));
    builder.build().ok()?.to_url().ok()
}

/// The step that `code` is right for at `now_s` (seconds since 1970), if that is after `last`.
pub(crate) fn accepted_step(secret: &str, code: u32, now_s: u64, last: u64) -> Option<u64> {
    // A number has lost its leading zeros.
    let code = format!("{code:0DIGITS$}");
    let step = totp(secret)?.check(&code, now_s)?;
    (step > last).then_some(step)
}

fn totp(secret: &str) -> Option<Totp> {
    let secret = Secret::try_from_base32(secret).ok()?;
    Builder::new()
        .with_secret(secret)
        .with_skew(SKEW)
        .build()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The secret of RFC 6238, appendix B: `12345678901234567890`.
    const SECRET: &str = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ";

    #[test]
    fn codes_of_the_standard_are_taken() {
        // The last six of its eight digits.
        for (time, code) in [
            (59, 287_082),
            (1_111_111_109, 81_804),
            (1_111_111_111, 50_471),
            (1_234_567_890, 5_924),
            (2_000_000_000, 279_037),
        ] {
            assert_eq!(
                accepted_step(SECRET, code, time, 0),
                Some(time / 30),
                "{time}"
            );
        }
    }

    #[test]
    fn a_code_counts_one_step_to_either_side_and_once() {
        let (time, code) = (1_111_111_109, 81_804);
        let step = time / 30;
        assert_eq!(accepted_step(SECRET, code, time + 30, 0), Some(step));
        assert_eq!(accepted_step(SECRET, code, time - 30, 0), Some(step));
        assert_eq!(accepted_step(SECRET, code, time + 60, 0), None);
        assert_eq!(accepted_step(SECRET, code, time - 60, 0), None);
        assert_eq!(accepted_step(SECRET, code, time, step - 1), Some(step));
        assert_eq!(accepted_step(SECRET, code, time, step), None);
        assert_eq!(accepted_step(SECRET, code + 1, time, 0), None);
        assert_eq!(accepted_step(SECRET, 1_000_000 + code, time, 0), None);
        assert_eq!(accepted_step("not base32!", code, time, 0), None);
    }

    #[test]
    fn secrets_are_random_and_fit_an_app() {
        assert_ne!(new_secret(), new_secret());
        let uri = key_uri(SECRET, "My: app", "ann@example.org").expect("a URI");
        assert!(
            uri.starts_with("otpauth://totp/My%20%20app:ann%40example.org?")
                || uri.starts_with("otpauth://totp/My%20%20app:ann@example.org?"),
            "{uri}"
        );
        assert!(uri.contains(&format!("secret={SECRET}")) && uri.contains("issuer=My%20%20app"));
    }
}
