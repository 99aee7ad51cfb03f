//! Who waits until an API server may be asked more: so many questions are put to it at once, and others wait for their turn.
//!
//! To wait here is Wharf's own doing and says nothing about the API server, unless it answers nobody meanwhile.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::{ANSWER_TIMEOUT, ClusterError};

/// Whom a question is about, and so with whose others it waits for its turn.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum About {
    /// Whoever is somebody, or showed something that may say so: whoever goes on showing what is not good waits before that.
    Somebody,
    /// Nobody in particular, for whom anybody may ask without end, about as many names as they make up.
    Nobody,
}

/// The questions of one kind.
pub(super) struct Queue {
    turns: Semaphore,
    heard: AtomicU64,
}

impl Queue {
    /// A queue in which `turns` questions may be under way.
    pub(super) fn new(turns: usize) -> Self {
        Self { turns: Semaphore::new(turns), heard: AtomicU64::new(0) }
    }

    /// Waits for its turn, which lasts until what is given is dropped. Whoever came first is first.
    ///
    /// # Errors
    /// When there is none in time: [`ClusterError::Busy`] if others were answered meanwhile, and [`ClusterError::TimedOut`] if
    /// nobody was, as those who have a turn wait for the API server then. Nobody but a silent API server makes it that.
    pub(super) async fn turn(&self) -> Result<SemaphorePermit<'_>, ClusterError> {
        let before = self.heard();
        // It is never closed.
        if let Ok(Ok(turn)) = timeout(ANSWER_TIMEOUT, self.turns.acquire()).await {
            return Ok(turn);
        }
        Err(if self.heard() == before { ClusterError::TimedOut } else { ClusterError::Busy })
    }

    /// How often the API server answered one of these questions, if only to refuse it.
    pub(super) fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }

    /// Notes that it answered another. That must be before the turn ends, or who waits for it might not know.
    pub(super) fn hear(&self) {
        self.heard.fetch_add(1, Ordering::Relaxed);
    }
}
