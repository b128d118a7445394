//! Password hashes: argon2id with the crate's defaults (19 MiB, two passes), as PHC strings that carry their parameters.
//!
//! Hashing takes tens of milliseconds of a core, so it runs on threads of its own, few at a time and behind all other work, and a bounded
//! number of callers waits. However many log in, or try to, reads and writes go on at their pace.

use std::sync::Arc;
use std::thread;

use argon2::Argon2;
use argon2::password_hash::{
    self, PasswordHash, PasswordHasher as _, PasswordVerifier as _, SaltString,
};
use proto::ErrorCode;
use rand::{Rng as _, RngCore as _};
use rustix::process::setpriority_process;
use tokio::sync::{Semaphore, oneshot};

use crate::error::{Error, Result};
use crate::limits::RETRY_AFTER;

/// Letters of generated passwords: 32 that nobody confuses, so five bits each.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
/// 24 letters are 120 bits.
const GENERATED_LETTERS: usize = 24;

/// Random bytes of a salt, as the PHC string format recommends.
const SALT_BYTES: usize = 16;

/// Niceness of a thread that hashes: where all cores are busy it gets a tenth of what another thread gets.
const NICENESS: i32 = 10;

/// Longest password that is hashed: hashing costs by length, and nobody types more.
pub const PASSWORD_BYTES_MAX: usize = 1024;

/// A random password for root.
pub fn generate() -> String {
    let mut random = rand::rng();
    (0..GENERATED_LETTERS)
        .map(|_| char::from(ALPHABET[random.random_range(0..ALPHABET.len())]))
        .collect()
}

/// Hashes passwords and checks them.
#[derive(Clone)]
pub struct Hasher {
    /// One permit for each that waits or runs.
    places: Arc<Semaphore>,
    running: Arc<Semaphore>,
}

impl Hasher {
    /// At most `running_max` at a time, and `waiting_max` more in line.
    pub fn new(running_max: usize, waiting_max: usize) -> Hasher {
        Hasher {
            places: Arc::new(Semaphore::new(running_max + waiting_max)),
            running: Arc::new(Semaphore::new(running_max)),
        }
    }

    /// A PHC string with a fresh salt.
    ///
    /// # Errors
    /// `TooManyRequests` when the line is full; `BadRequest` for a password over [`PASSWORD_BYTES_MAX`].
    pub async fn hash(&self, password: &str) -> Result<String> {
        check_length(password)?;
        let password = password.to_owned();
        self.run(move || hash_now(&password).map_err(|error| Error::internal(&error)))
            .await?
    }

    /// Whether the password has this hash. Without a hash it does the same work and says no: the time must not tell whether a user
    /// exists.
    ///
    /// # Errors
    /// `TooManyRequests` when the line is full.
    pub async fn verify(&self, password: &str, hash: Option<String>) -> Result<bool> {
        if password.len() > PASSWORD_BYTES_MAX {
            return Ok(false);
        }
        let password = password.to_owned();
        self.run(move || {
            let parsed = hash
                .as_deref()
                .and_then(|hash| PasswordHash::new(hash).ok());
            match parsed {
                Some(hash) => Argon2::default()
                    .verify_password(password.as_bytes(), &hash)
                    .is_ok(),
                None => {
                    // Only for the time it takes.
                    let _ = hash_now(&password);
                    false
                }
            }
        })
        .await
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| {
            Error::new(ErrorCode::TooManyRequests, "too many log-ins wait")
                .with_retry_after(RETRY_AFTER)
        })?;
        let permit = Arc::clone(&self.running)
            .acquire_owned()
            .await
            .map_err(|closed| Error::internal(&closed))?;
        let (done, result) = oneshot::channel();
        // A thread for each: one that has lowered its priority cannot raise it again.
        thread::Builder::new()
            .name("password".to_owned())
            .spawn(move || {
                // Without it hashing only costs the others more. On Linux this is the priority of the calling thread alone.
                let _ = setpriority_process(None, NICENESS);
                // Nobody may wait any more.
                let _ = done.send(work());
                drop((permit, place));
            })
            .map_err(|refused| Error::internal(&refused))?;
        result.await.map_err(|failed| Error::internal(&failed))
    }
}

fn hash_now(password: &str) -> password_hash::Result<String> {
    let mut salt = [0; SALT_BYTES];
    rand::rng().fill_bytes(&mut salt);
    let salt = SaltString::encode_b64(&salt)?;
    Ok(Argon2::default()
        .hash_password(password.as_bytes(), &salt)?
        .to_string())
}

fn check_length(password: &str) -> Result<()> {
    if password.len() > PASSWORD_BYTES_MAX {
        return Err(Error::bad_request(format!(
            "a password has at most {PASSWORD_BYTES_MAX} bytes"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_fits_its_own_hash_only() {
        let hasher = Hasher::new(1, 4);
        let hash = hasher.hash("secret").await.expect("hashed");
        assert!(hash.starts_with("$argon2id$"));
        assert!(
            hasher
                .verify("secret", Some(hash.clone()))
                .await
                .expect("checked")
        );
        assert!(!hasher.verify("Secret", Some(hash)).await.expect("checked"));
        assert!(!hasher.verify("secret", None).await.expect("checked"));
        assert!(
            !hasher
                .verify("secret", Some("no hash".to_owned()))
                .await
                .expect("checked")
        );
    }

    #[tokio::test]
    async fn a_full_line_refuses() {
        let hasher = Hasher::new(0, 0);
        let error = hasher.hash("secret").await.expect_err("no place");
        assert_eq!(error.code, ErrorCode::TooManyRequests);
        assert!(error.retry_after.is_some());
    }

    #[test]
    fn generated_passwords_differ() {
        assert_eq!(generate().len(), GENERATED_LETTERS);
        assert_ne!(generate(), generate());
    }
}
