//! Session tokens (contract section 8.5): hexadecimal text that any node of the cluster checks without asking anyone.
//!
//! ```text
//! 8 created, seconds since 1970 | 8 expiry, seconds | user, roles | 40 signature
//! ```
//!
//! All parts are lower-case hex. The signature is the first 20 bytes of HMAC-SHA256 under the cluster's signing key over the database id
//! (u32, little endian) and the text of everything before it, so a token is worth nothing in another database. User and roles are a
//! format byte (1) and then keys: first the user's, then those of the roles, each in one of three forms:
//!
//! | tag | form |
//! |---|---|
//! | 1 | a UUID in canonical text: its 16 bytes |
//! | 2 | a decimal number without leading zeros: LEB128 |
//! | 3 | any other text: length (LEB128) and UTF-8 |
//!
//! Implied roles (`loggedin`) are not written. The expiry is the *short* life: past it the claims are still authentic, but user and
//! roles must be looked up again. The session ends with the *long* life, counted from creation.

use document::acl::{LOGGED_IN_ROLE, Principal};
use document::id::{object_id, parse_object_id};
use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;
use uuid::Uuid;

/// Letters of the signature.
const SIGNATURE: usize = 40;
/// Letters of the two times.
const TIMES: usize = 16;
/// Longest text that is looked at: a key of 1 KiB and dozens of roles fit.
const TOKEN_LETTERS_MAX: usize = 16 * 1024;

const FORMAT: u8 = 1;
const TAG_UUID: u8 = 1;
const TAG_NUMBER: u8 = 2;
const TAG_TEXT: u8 = 3;

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// Seconds since 1970 when the session began.
    pub created: u32,
    /// Seconds since 1970 until which user and roles need no second look.
    pub expires: u32,
    /// Decoded key of the user.
    pub user: String,
    /// Decoded keys of the roles, without implied ones.
    pub roles: Vec<String>,
}

impl Claims {
    /// The caller that these claims describe.
    pub fn principal(&self) -> Principal {
        let mut roles = Vec::with_capacity(self.roles.len() + 1);
        roles.extend(self.roles.iter().map(|key| object_id("Role", key)));
        roles.push(LOGGED_IN_ROLE.to_owned());
        Principal {
            user: Some(object_id("User", &self.user)),
            roles,
        }
    }
}

/// The keys of role ids, implied roles left out.
pub fn role_keys(role_ids: &[String]) -> Vec<String> {
    let explicit = role_ids.iter().filter(|id| *id != LOGGED_IN_ROLE);
    explicit
        .filter_map(|id| parse_object_id(id))
        .map(|(_, key)| key)
        .collect()
}

/// Writes and signs a token.
pub fn sign(signing_key: &[u8], database: u32, claims: &Claims) -> String {
    let mut data = vec![FORMAT];
    for key in std::iter::once(&claims.user).chain(&claims.roles) {
        write_key(&mut data, key);
    }
    let mut token = format!(
        "{:08x}{:08x}{}",
        claims.created,
        claims.expires,
        hex::encode(data)
    );
    let signature = signature(signing_key, database, &token);
    token.push_str(&signature);
    token
}

/// Checks the signature, in constant time, and reads the claims. Does not look at any clock.
///
/// `None`: not a token of this cluster and database.
pub fn verify(signing_key: &[u8], database: u32, token: &str) -> Option<Claims> {
    if token.len() > TOKEN_LETTERS_MAX || !token.is_ascii() {
        return None;
    }
    let (data, given) = token.split_at_checked(token.len().checked_sub(SIGNATURE)?)?;
    let expected = signature(signing_key, database, data);
    if !bool::from(expected.as_bytes().ct_eq(given.as_bytes())) {
        return None;
    }
    let created = u32::from_str_radix(data.get(..8)?, 16).ok()?;
    let expires = u32::from_str_radix(data.get(8..TIMES)?, 16).ok()?;
    let keys = hex::decode(data.get(TIMES..)?).ok()?;
    let mut rest = keys.strip_prefix(&[FORMAT])?;
    let user = read_key(&mut rest)?;
    let mut roles = Vec::new();
    while !rest.is_empty() {
        roles.push(read_key(&mut rest)?);
    }
    Some(Claims {
        created,
        expires,
        user,
        roles,
    })
}

fn signature(signing_key: &[u8], database: u32, data: &str) -> String {
    // HMAC takes keys of any length, so this cannot fail.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(signing_key) else {
        return String::new();
    };
    mac.update(&database.to_le_bytes());
    mac.update(data.as_bytes());
    hex::encode(&mac.finalize().into_bytes()[..SIGNATURE / 2])
}

fn write_key(out: &mut Vec<u8>, key: &str) {
    if let Some(uuid) = canonical_uuid(key) {
        out.push(TAG_UUID);
        out.extend_from_slice(uuid.as_bytes());
    } else if let Some(number) = canonical_number(key) {
        out.push(TAG_NUMBER);
        write_varint(out, number);
    } else {
        out.push(TAG_TEXT);
        write_varint(out, key.len() as u64);
        out.extend_from_slice(key.as_bytes());
    }
}

fn read_key(rest: &mut &[u8]) -> Option<String> {
    match take(rest, 1)?[0] {
        TAG_UUID => Some(Uuid::from_slice(take(rest, 16)?).ok()?.to_string()),
        TAG_NUMBER => Some(read_varint(rest)?.to_string()),
        TAG_TEXT => {
            let bytes = usize::try_from(read_varint(rest)?).ok()?;
            String::from_utf8(take(rest, bytes)?.to_vec()).ok()
        }
        _ => None,
    }
}

/// The UUID, if its text is exactly this key.
fn canonical_uuid(key: &str) -> Option<Uuid> {
    let uuid = Uuid::parse_str(key).ok()?;
    let mut text = Uuid::encode_buffer();
    (*uuid.hyphenated().encode_lower(&mut text) == *key).then_some(uuid)
}

/// The number, if its text is exactly this key.
fn canonical_number(key: &str) -> Option<u64> {
    let number: u64 = key.parse().ok()?;
    (number.to_string() == key).then_some(number)
}

fn take<'a>(rest: &mut &'a [u8], bytes: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(bytes)?;
    *rest = left;
    Some(taken)
}

fn write_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn read_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = take(rest, 1)?[0];
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            return None;
        }
        number |= bits << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &[u8] = b"0123456789abcdef0123456789abcdef";

    fn claims(user: &str, roles: &[&str]) -> Claims {
        let roles = roles.iter().map(|&role| role.to_owned()).collect();
        Claims {
            created: 0x5f00_0000,
            expires: 0x6f00_0000,
            user: user.to_owned(),
            roles,
        }
    }

    #[test]
    fn tokens_have_the_shape_of_the_contract() {
        let token = sign(KEY, 1, &claims("1", &["1"]));
        let (data, signature) = token.split_at(token.len() - SIGNATURE);
        assert_eq!(data, "5f0000006f0000000102010201");
        assert_eq!(signature.len(), SIGNATURE);
        assert!(
            token
                .bytes()
                .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
        );
        // The original's least length, also without roles.
        assert!(sign(KEY, 1, &claims("1", &[])).len() >= 62);
    }

    #[test]
    fn signatures_are_stable() {
        // Computed apart: HMAC-SHA256(key, 01000000 || "5f0000006f0000000102010201"), first 20 bytes.
        let token = sign(KEY, 1, &claims("1", &["1"]));
        assert_eq!(
            &token[token.len() - SIGNATURE..],
            "3b128e992ba2a4b159cf6e83ecfd09adc3694be0"
        );
    }

    #[test]
    fn a_changed_token_another_key_or_another_database_is_refused() {
        let token = sign(KEY, 1, &claims("10", &[]));
        assert_eq!(verify(KEY, 1, &token), Some(claims("10", &[])));
        assert_eq!(verify(KEY, 2, &token), None);
        assert_eq!(verify(b"another key", 1, &token), None);
        for at in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
            let changed = String::from_utf8(bytes).expect("ascii");
            assert_eq!(verify(KEY, 1, &changed), None, "letter {at}");
            assert_eq!(verify(KEY, 1, &token[..at]), None);
        }
        assert_eq!(verify(KEY, 1, &token.to_uppercase()), None);
    }

    #[test]
    fn claims_become_a_principal_with_the_implied_role() {
        let principal = claims("a b", &["7"]).principal();
        assert_eq!(principal.user.as_deref(), Some("/db/User/a%20b"));
        assert_eq!(principal.roles, ["/db/Role/7", LOGGED_IN_ROLE]);
        assert_eq!(role_keys(&principal.roles), ["7"]);
    }

    proptest! {
        #[test]
        fn claims_round_trip(
            user in "\\PC{1,40}|[0-9]{1,22}|[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-8[0-9a-f]{3}-[0-9a-f]{12}",
            roles in proptest::collection::vec("[0-9]{1,3}|\\PC{0,9}", 0..5),
            created: u32,
            expires: u32,
        ) {
            let claims = Claims { created, expires, user, roles };
            let token = sign(KEY, 1, &claims);
            prop_assert_eq!(verify(KEY, 1, &token), Some(claims));
        }

        #[test]
        fn reading_never_panics(token in "[0-9a-f]{0,120}|\\PC{0,80}") {
            prop_assert_eq!(verify(KEY, 1, &token), None);
        }
    }
}
