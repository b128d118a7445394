//! Page tokens: the place of the last document and a mark of the query that it belongs to.
//!
//! Opaque outside. A token holds no state of any node, so it survives restarts, failovers and moves, and never expires; what was written
//! meanwhile shows as in any other query.

use bytes::Bytes;
use prost::Message;
use xxhash_rust::xxh3::Xxh3;

use crate::error::{Error, Result};

/// The only form so far.
const FORM: u32 = 1;

/// See the module.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Token {
    #[prost(uint32, tag = "1")]
    form: u32,
    #[prost(fixed64, tag = "2")]
    fingerprint: u64,
    #[prost(bytes = "bytes", tag = "3")]
    place: Bytes,
}

impl Token {
    pub(super) fn encode(fingerprint: u64, place: Bytes) -> Bytes {
        let token = Token {
            form: FORM,
            fingerprint,
            place,
        };
        token.encode_to_vec().into()
    }

    /// The place behind which to go on.
    ///
    /// # Errors
    /// `BadRequest`: not a token of ours, or one of another query.
    pub(super) fn decode(bytes: Bytes, fingerprint: u64) -> Result<Bytes> {
        let token = <Token as Message>::decode(bytes).ok();
        let token = token.filter(|token| token.form == FORM);
        match token {
            Some(token) if token.fingerprint == fingerprint => Ok(token.place),
            Some(_) => Err(Error::bad_request(
                "the page token belongs to another query: filter and sort must be as they were",
            )),
            None => Err(Error::bad_request("malformed page token")),
        }
    }
}

/// A mark of texts in their order.
pub(super) fn fingerprint(parts: &[&[u8]]) -> u64 {
    let mut hash = Xxh3::new();
    for part in parts {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.digest()
}

#[cfg(test)]
mod tests {
    use proto::ErrorCode;

    use super::*;

    #[test]
    fn tokens_round_trip_and_know_their_query() {
        let (here, there) = (fingerprint(&[b"a", b"bc"]), fingerprint(&[b"ab", b"c"]));
        assert_ne!(here, there);
        let place = Bytes::from_static(b"\x00place");
        let token = Token::encode(here, place.clone());
        assert_eq!(Token::decode(token.clone(), here), Ok(place));
        for (bytes, fingerprint) in [
            (token, there),
            (Bytes::from_static(b"\xff"), here),
            (Bytes::new(), here),
        ] {
            let refused = Token::decode(bytes, fingerprint).expect_err("refused");
            assert_eq!(refused.code, ErrorCode::BadRequest);
        }
    }
}
