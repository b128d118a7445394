//! Tokens (contract section 8.5): hexadecimal text that any node of the cluster checks without asking anyone.
//!
//! ```text
//! 8 created, seconds since 1970 | 8 expiry, seconds | what it says | 40 signature
//! ```
//!
//! All parts are lower-case hex. The signature is the first 20 bytes of HMAC-SHA256 under one of the cluster's signing keys over the
//! database id (u32, little endian) and the text of everything before it, so a token is worth nothing in another database. What it says
//! is
//!
//! ```text
//! format (2) | kind | id of the signing key, LEB128 | version of the user, LEB128 | user's key | texts, each like a key
//! ```
//!
//! where a key is in one of three forms:
//!
//! | tag | form |
//! |---|---|
//! | 1 | a UUID in canonical text: its 16 bytes |
//! | 2 | a decimal number without leading zeros: LEB128 |
//! | 3 | any other text: length (LEB128) and UTF-8 |
//!
//! The **version** is that of the user document at the log-in, read together with the password hash that the log-in was checked
//! against: a token is revoked by saying that versions below another one are no good ([`crate::rights`]). No clock is asked for that.
//!
//! A token says who its holder is, not what roles it has: those are looked up. The kind is signed, so a token is never good for anything
//! but what it was made for.

use cluster::signing_keys::SigningKeys;
use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;
use uuid::Uuid;

/// Letters of the signature.
const SIGNATURE: usize = 40;
/// Letters of the two times.
const TIMES: usize = 16;
/// Longest text that is looked at: a key of 1 KiB and texts of the like fit.
const TOKEN_LETTERS_MAX: usize = 16 * 1024;
/// Texts in one token.
const TEXTS_MAX: usize = 8;
/// How much later than a key was retired a token of it may claim to be made: clocks of nodes differ.
const RETIRED_SLACK_SECONDS: u64 = 60;

const FORMAT: u8 = 2;
const TAG_UUID: u8 = 1;
const TAG_NUMBER: u8 = 2;
const TAG_TEXT: u8 = 3;

/// What a token is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Requests, for the time of a session. A text: the one role that it acts in.
    Session = 1,
    /// Requests, for ever.
    Api = 2,
    /// The second step of a log-in.
    SecondFactor = 3,
    /// Confirming a mail address. The text is a nonce.
    Verification = 4,
    /// Setting a password without the old one. The text is a nonce.
    Reset = 5,
    /// Confirming another name. The texts are a nonce and the name.
    NameChange = 6,
    /// The state of a log-in with a provider. The texts are the provider, a mark of the browser, and where to go afterwards.
    Flow = 7,
}

impl Kind {
    fn of(byte: u8) -> Option<Kind> {
        let all = [
            Kind::Session,
            Kind::Api,
            Kind::SecondFactor,
            Kind::Verification,
            Kind::Reset,
            Kind::NameChange,
            Kind::Flow,
        ];
        all.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// What it is good for.
    pub kind: Kind,
    /// Seconds since 1970 when it was made; of a renewed session, when that began.
    pub created: u32,
    /// Seconds since 1970. Of a session, the time after which clients should renew it; of all other kinds, its end.
    pub expires: u32,
    /// Decoded key of the user.
    pub user: String,
    /// Version of the user that it rests on.
    pub version: u64,
    /// By kind.
    pub texts: Vec<String>,
}

/// Writes and signs a token with the present key. `None`: there is no cluster yet.
pub fn sign(keys: &SigningKeys, database: u32, claims: &Claims) -> Option<String> {
    let key = keys.current()?;
    let mut data = vec![FORMAT, claims.kind as u8];
    write_varint(&mut data, u64::from(key.id));
    write_varint(&mut data, claims.version);
    for text in std::iter::once(&claims.user).chain(&claims.texts) {
        write_key(&mut data, text);
    }
    let mut token = format!(
        "{:08x}{:08x}{}",
        claims.created,
        claims.expires,
        hex::encode(data)
    );
    let signature = signature(&key.secret, database, &token);
    token.push_str(&signature);
    Some(token)
}

/// Checks the signature, in constant time, and reads the claims. Does not look at any clock.
///
/// `None`: not a token of this cluster and database.
pub fn verify(keys: &SigningKeys, database: u32, token: &str) -> Option<Claims> {
    if token.len() > TOKEN_LETTERS_MAX || !token.is_ascii() {
        return None;
    }
    let (data, given) = token.split_at_checked(token.len().checked_sub(SIGNATURE)?)?;
    let (key, claims) = read(data)?;
    let key = keys.get(key)?;
    let expected = signature(&key.secret, database, data);
    if !bool::from(expected.as_bytes().ct_eq(given.as_bytes())) {
        return None;
    }
    let is_late = |retired: u64| {
        u64::from(claims.created) > (retired / 1_000_000).saturating_add(RETIRED_SLACK_SECONDS)
    };
    if key.retired_us.is_some_and(is_late) {
        return None;
    }
    Some(claims)
}

/// The user that an API token claims to be of: whose key it must be checked with. `None`: it is of another kind.
pub(crate) fn unverified_user(token: &str) -> Option<String> {
    if token.len() > TOKEN_LETTERS_MAX || !token.is_ascii() {
        return None;
    }
    let (data, _) = token.split_at_checked(token.len().checked_sub(SIGNATURE)?)?;
    let (_, claims) = read(data)?;
    (claims.kind == Kind::Api).then_some(claims.user)
}

/// The id of the signing key, and the claims, of the text before the signature.
fn read(data: &str) -> Option<(u32, Claims)> {
    // The parser of numbers would take capitals and a sign; the signature is over the text as it is.
    let is_lower_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if !data.bytes().all(is_lower_hex) {
        return None;
    }
    let created = u32::from_str_radix(data.get(..8)?, 16).ok()?;
    let expires = u32::from_str_radix(data.get(8..TIMES)?, 16).ok()?;
    let bytes = hex::decode(data.get(TIMES..)?).ok()?;
    let mut rest = bytes.strip_prefix(&[FORMAT])?;
    let kind = Kind::of(take(&mut rest, 1)?[0])?;
    let key = u32::try_from(read_varint(&mut rest)?).ok()?;
    let version = read_varint(&mut rest)?;
    let user = read_key(&mut rest)?;
    let mut texts = Vec::new();
    while !rest.is_empty() {
        if texts.len() == TEXTS_MAX {
            return None;
        }
        texts.push(read_key(&mut rest)?);
    }
    let claims = Claims {
        kind,
        created,
        expires,
        user,
        version,
        texts,
    };
    Some((key, claims))
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
    use cluster::signing_keys::SigningKey;
    use proptest::prelude::*;

    use super::*;

    const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

    fn key(id: u32, secret: &[u8], retired_us: Option<u64>) -> SigningKey {
        SigningKey {
            id,
            secret: secret.to_vec(),
            since_us: 0,
            retired_us,
        }
    }

    fn keys() -> SigningKeys {
        SigningKeys::new(vec![key(0, SECRET, None)])
    }

    fn claims(user: &str, texts: &[&str]) -> Claims {
        Claims {
            kind: Kind::Session,
            created: 0x5f00_0000,
            expires: 0x6f00_0000,
            user: user.to_owned(),
            version: 3,
            texts: texts.iter().map(|&text| text.to_owned()).collect(),
        }
    }

    fn signed(keys: &SigningKeys, claims: &Claims) -> String {
        sign(keys, 1, claims).expect("there is a key")
    }

    #[test]
    fn tokens_have_the_shape_of_the_contract() {
        let token = signed(&keys(), &claims("1", &["1"]));
        let (data, signature) = token.split_at(token.len() - SIGNATURE);
        assert_eq!(data, "5f0000006f0000000201000302010201");
        assert_eq!(signature.len(), SIGNATURE);
        assert!(
            token
                .bytes()
                .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
        );
        // The original's least length, also without texts.
        assert!(signed(&keys(), &claims("1", &[])).len() >= 62);
    }

    #[test]
    fn a_changed_token_another_key_or_another_database_is_refused() {
        let keys = keys();
        let token = signed(&keys, &claims("10", &[]));
        assert_eq!(verify(&keys, 1, &token), Some(claims("10", &[])));
        assert_eq!(verify(&keys, 2, &token), None);
        let others = SigningKeys::new(vec![key(0, b"another secret", None)]);
        assert_eq!(verify(&others, 1, &token), None);
        let others = SigningKeys::new(vec![key(1, SECRET, None)]);
        assert_eq!(verify(&others, 1, &token), None);
        for at in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
            let changed = String::from_utf8(bytes).expect("ascii");
            assert_eq!(verify(&keys, 1, &changed), None, "letter {at}");
            assert_eq!(verify(&keys, 1, &token[..at]), None);
        }
        assert_eq!(verify(&keys, 1, &token.to_uppercase()), None);
        let longer = format!("{token}00");
        assert_eq!(verify(&keys, 1, &longer), None);
    }

    #[test]
    fn a_retired_key_verifies_what_it_signed_and_nothing_newer() {
        let before = keys();
        let old = signed(&before, &claims("10", &[]));
        let made_us = 0x5f00_0000 * 1_000_000;
        let rotated = |retired_us| {
            SigningKeys::new(vec![
                key(0, SECRET, Some(retired_us)),
                key(1, b"next", None),
            ])
        };
        assert!(verify(&rotated(made_us + 1), 1, &old).is_some());
        // Made up with a stolen key after it was retired.
        let long_before = made_us - 2 * RETIRED_SLACK_SECONDS * 1_000_000;
        assert_eq!(verify(&rotated(long_before), 1, &old), None);
        let new = signed(&rotated(made_us), &claims("10", &[]));
        assert!(verify(&rotated(made_us), 1, &new).is_some());
        assert_eq!(verify(&before, 1, &new), None);
        let forgotten = SigningKeys::new(vec![key(1, b"next", None)]);
        assert_eq!(verify(&forgotten, 1, &old), None);
    }

    proptest! {
        #[test]
        fn claims_round_trip(
            user in "\\PC{1,40}|[0-9]{1,22}|[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-8[0-9a-f]{3}-[0-9a-f]{12}",
            texts in proptest::collection::vec("[0-9]{1,3}|\\PC{0,9}", 0..5),
            created: u32,
            expires: u32,
            version: u64,
            kind in 1..=6u8,
        ) {
            let kind = Kind::of(kind).expect("a kind");
            let claims = Claims { kind, created, expires, user, version, texts };
            let token = signed(&keys(), &claims);
            prop_assert_eq!(verify(&keys(), 1, &token), Some(claims));
        }

        #[test]
        fn reading_never_panics(token in "[0-9a-f]{0,120}|\\PC{0,80}|5f0000006f000000020[1-6][0-9a-f]{0,90}") {
            prop_assert_eq!(verify(&keys(), 1, &token), None);
        }
    }
}
