//! Forwarded requests that this node is answering for one incoming link.
//!
//! The asking side may give up on one whose result alone matters; then its work ends here, wherever it has come. What it has changed
//! stays: only requests that change nothing are given up.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::{AbortHandle, Abortable};
use parking_lot::Mutex;
use proto::peer::Envelope;
use proto::peer::envelope::Body;
use tokio::sync::{Semaphore, mpsc};

use super::ForwardHandler;

/// The requests of one link.
#[derive(Clone)]
pub(super) struct Forwards {
    handler: Arc<dyn ForwardHandler>,
    permits: Arc<Semaphore>,
    answers: mpsc::Sender<Envelope>,
    running: Arc<Mutex<HashMap<u64, AbortHandle>>>,
}

impl Forwards {
    /// `permits` bounds the requests of all links together.
    pub(super) fn new(
        handler: Arc<dyn ForwardHandler>,
        permits: Arc<Semaphore>,
        answers: mpsc::Sender<Envelope>,
    ) -> Self {
        Self {
            handler,
            permits,
            answers,
            running: Arc::default(),
        }
    }

    /// Begins to answer a request. False: too many are being answered, and nothing happens.
    pub(super) fn begin(&self, id: u64, body: Bytes) -> bool {
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
            return false;
        };
        let (handle, registration) = AbortHandle::new_pair();
        self.running.lock().insert(id, handle);
        let answer = Abortable::new(self.handler.handle(body), registration);
        let (running, answers) = (Arc::clone(&self.running), self.answers.clone());
        tokio::spawn(async move {
            let answer = answer.await;
            running.lock().remove(&id);
            drop(permit);
            if let Ok(reply) = answer {
                let body = Some(Body::ForwardResponse(reply));
                // The link may be gone: its other side has failed the call already.
                let _ = answers.send(Envelope { id, body }).await;
            }
        });
        true
    }

    /// Ends the work on a request that nobody waits for any more. One that is answered already stays so.
    pub(super) fn give_up(&self, id: u64) {
        if let Some(handle) = self.running.lock().remove(&id) {
            handle.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use futures::future::BoxFuture;
    use tokio::sync::oneshot;

    use super::*;

    /// Never answers what is not empty, and tells when its work is dropped.
    struct Stuck(Mutex<Option<oneshot::Sender<()>>>);

    impl ForwardHandler for Stuck {
        fn handle(&self, body: Bytes) -> BoxFuture<'static, Bytes> {
            if body.is_empty() {
                return async { Bytes::from_static(b"answer") }.boxed();
            }
            let held = self.0.lock().take();
            async move {
                let _held = held;
                std::future::pending().await
            }
            .boxed()
        }
    }

    #[tokio::test]
    async fn work_that_nobody_waits_for_ends_and_frees_its_place() {
        let (dropped, gone) = oneshot::channel();
        let (answers, mut sent) = mpsc::channel(8);
        let permits = Arc::new(Semaphore::new(1));
        let handler = Arc::new(Stuck(Mutex::new(Some(dropped))));
        let forwards = Forwards::new(handler, Arc::clone(&permits), answers);
        assert!(forwards.begin(1, Bytes::from_static(b"x")));
        assert!(!forwards.begin(2, Bytes::new()), "no place is left");
        forwards.give_up(9);
        forwards.give_up(1);
        assert!(gone.await.is_err(), "the work is dropped");
        let permit = permits.acquire().await.expect("the place is free");
        drop(permit);
        assert!(forwards.begin(3, Bytes::new()));
        let answered = sent.recv().await.expect("an answer");
        assert_eq!(
            answered.id, 3,
            "the request that was given up has no answer"
        );
        assert!(forwards.running.lock().is_empty());
    }
}
