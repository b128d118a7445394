//! Wishes for mails that wait to be fulfilled: those who ask do not wait, so that the time tells nothing.

use proto::ErrorCode;
use tokio::sync::{Mutex, mpsc};

use crate::error::{Error, Result};
use crate::limits::RETRY_AFTER;

/// Wishes that wait; more are refused.
const WAITING_MAX: usize = 256;

/// Database and user name.
pub(crate) type Wish = (String, String);

/// The line.
pub(crate) struct Resets {
    wishes: mpsc::Sender<Wish>,
    next: Mutex<mpsc::Receiver<Wish>>,
}

impl Default for Resets {
    fn default() -> Resets {
        let (wishes, next) = mpsc::channel(WAITING_MAX);
        let next = Mutex::new(next);
        Resets { wishes, next }
    }
}

impl Resets {
    /// Takes a wish.
    ///
    /// # Errors
    /// `TooManyRequests`: the line is full.
    pub(crate) fn push(&self, database: String, name: String) -> Result<()> {
        self.wishes.try_send((database, name)).map_err(|_| {
            Error::new(ErrorCode::TooManyRequests, "too many mails wait")
                .with_retry_after(RETRY_AFTER)
        })
    }

    /// The next wish, once there is one.
    pub(crate) async fn next(&self) -> Option<Wish> {
        self.next.lock().await.recv().await
    }
}
