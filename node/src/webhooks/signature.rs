//! How a target knows that a batch is ours and new: `t=SECONDS,v1=HEX`, the HMAC-SHA256 of `SECONDS.BODY` under the shared secret. A target
//! that refuses old times is safe from batches that somebody recorded; what it takes twice all the same has the same name.

use ring::hmac;

/// The value of the header.
pub(super) fn header(secret: &str, seconds: u64, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let mut signed = hmac::Context::with_key(&key);
    signed.update(format!("{seconds}.").as_bytes());
    signed.update(body);
    format!("t={seconds},v1={}", hex::encode(signed.sign()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `printf '1700000000.{"n":1}' | openssl dgst -sha256 -hmac 'correct horse battery'` says.
    #[test]
    fn anybody_can_check_it() {
        let header = header("correct horse battery", 1_700_000_000, br#"{"n":1}"#);
        let expected =
            "t=1700000000,v1=6f5f60c0d119f9aae35cf96e04ce4e1493775598891966fee9bb71590d5b2071";
        assert_eq!(header, expected);
    }
}
