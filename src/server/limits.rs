//! How much all clients together may use up: connections, and requests under way.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::Concurrency;

/// Connections above the limit that are accepted all the same, so that whoever asks for health is answered, and the
/// others learn why they are not.
const SPARE_CONNECTIONS: usize = 32;

/// How many connections may be open at once.
#[derive(Debug)]
pub(super) struct ConnectionLimit {
    regular: Arc<Semaphore>,
    spare: Arc<Semaphore>,
}

/// A connection's place among those that may be open, for as long as it lives.
#[derive(Debug)]
pub(super) struct Place {
    _permit: Option<OwnedSemaphorePermit>,
    /// Whether it is one of the spare places, which are for questions about health.
    pub(super) is_spare: bool,
}

impl ConnectionLimit {
    pub(super) fn new(connections: NonZeroUsize) -> Self {
        let permits = connections.get().min(Semaphore::MAX_PERMITS);
        Self {
            regular: Arc::new(Semaphore::new(permits)),
            spare: Arc::new(Semaphore::new(SPARE_CONNECTIONS)),
        }
    }

    /// Waits until there is a place.
    pub(super) async fn place(&self) -> Place {
        if let Ok(permit) = Arc::clone(&self.regular).try_acquire_owned() {
            return Place { _permit: Some(permit), is_spare: false };
        }
        if let Ok(permit) = Arc::clone(&self.spare).try_acquire_owned() {
            return Place { _permit: Some(permit), is_spare: true };
        }
        tokio::select! {
            permit = Arc::clone(&self.regular).acquire_owned() => Place { _permit: permit.ok(), is_spare: false },
            permit = Arc::clone(&self.spare).acquire_owned() => Place { _permit: permit.ok(), is_spare: true },
        }
    }
}

/// How many requests of one kind may be under way at once, and how many more may wait for their turn.
#[derive(Debug)]
pub(super) struct RequestLimit {
    running: Arc<Semaphore>,
    queue: Semaphore,
    longest_wait: Option<Duration>,
}

/// Neither a place nor, in time, a turn.
#[derive(Debug)]
pub(super) struct TooMany;

impl RequestLimit {
    /// Gives `None` where there is no limit.
    pub(super) fn new(concurrency: &Concurrency) -> Option<Self> {
        let running = concurrency.running?.get().min(Semaphore::MAX_PERMITS);
        let queued = concurrency.queued.min(Semaphore::MAX_PERMITS);
        Some(Self {
            running: Arc::new(Semaphore::new(running)),
            queue: Semaphore::new(queued),
            longest_wait: concurrency.longest_wait,
        })
    }

    /// Waits for its turn; the permit is to be kept until the answer has been sent.
    pub(super) async fn turn(&self) -> Result<OwnedSemaphorePermit, TooMany> {
        if let Ok(permit) = Arc::clone(&self.running).try_acquire_owned() {
            return Ok(permit);
        }
        let _queued = self.queue.try_acquire().map_err(|_| TooMany)?;
        let turn = Arc::clone(&self.running).acquire_owned();
        match self.longest_wait {
            Some(longest) => tokio::time::timeout(longest, turn).await.map_err(|_| TooMany)?,
            None => turn.await,
        }
        .map_err(|_| TooMany)
    }
}
