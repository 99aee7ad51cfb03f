//! When a cluster was last heard of, and whether what it told then still counts.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crossbeam_utils::sync::ShardedLock;
use tokio::time::Instant;

/// Whether a cluster is heard of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Contact {
    /// It told all that is watched, and goes on telling.
    Current,
    /// It cannot be reached, for this long; what it told before counts.
    Silent(Duration),
    /// Nothing counts.
    Lost(Lost),
}

/// Why nothing that is known of a cluster counts.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Lost {
    /// It has not told all of these yet.
    #[error("{0} have not been read from the API server yet")]
    Unread(&'static str),
    /// It has not been heard of for so long.
    #[error("the API server has been silent for {} s", .0.as_secs())]
    Silent(Duration),
}

/// All that is watched in one cluster.
#[derive(Debug)]
pub(super) struct Contacts {
    /// What times are counted from.
    since: Instant,
    watched: ShardedLock<Vec<Arc<Pulse>>>,
    outage: Duration,
}

/// When one kind of thing was last heard of.
pub(super) struct Pulse {
    kind: &'static str,
    since: Instant,
    /// In milliseconds after `since`; 0 if never.
    heard: AtomicU64,
    failing: AtomicBool,
}

impl Contacts {
    pub(super) fn new(outage: Duration) -> Self {
        Self { since: Instant::now(), watched: ShardedLock::default(), outage }
    }

    pub(super) fn outage(&self) -> Duration {
        self.outage
    }

    pub(super) fn add(&self, kind: &'static str) -> Arc<Pulse> {
        let pulse = Arc::new(Pulse {
            kind,
            since: self.since,
            heard: AtomicU64::new(0),
            failing: AtomicBool::new(false),
        });
        self.watched.write().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&pulse));
        pulse
    }

    pub(super) fn contact(&self) -> Contact {
        let watched = self.watched.read().unwrap_or_else(PoisonError::into_inner);
        // For each request: one look at the clock serves all.
        let (now, outage) = (milliseconds_after(self.since), as_milliseconds(self.outage));
        let mut contact = Contact::Current;
        for pulse in &*watched {
            let Some(silence) = pulse.silence_at(now) else {
                return Contact::Lost(Lost::Unread(pulse.kind));
            };
            if silence > outage {
                return Contact::Lost(Lost::Silent(Duration::from_millis(silence)));
            }
            if pulse.failing.load(Ordering::Relaxed) {
                contact = Contact::Silent(Duration::from_millis(silence));
            }
        }
        contact
    }

    pub(super) fn ensure_known(&self) -> Result<(), Lost> {
        match self.contact() {
            Contact::Current | Contact::Silent(_) => Ok(()),
            Contact::Lost(lost) => Err(lost),
        }
    }
}

impl Pulse {
    /// What is watched.
    pub(super) fn kind(&self) -> &'static str {
        self.kind
    }

    /// Something was heard, and with it everything up to now is known.
    pub(super) fn beat(&self) {
        self.heard.store(milliseconds_after(self.since).max(1), Ordering::Relaxed);
        self.answer();
    }

    /// There is somebody, who has told nothing yet.
    pub(super) fn answer(&self) {
        if self.failing.swap(false, Ordering::Relaxed) {
            tracing::info!(kind = self.kind, "the API server is heard again");
        }
    }

    /// Nothing can be heard for now.
    pub(super) fn miss(&self, error: &(dyn std::error::Error + 'static)) {
        if !self.failing.swap(true, Ordering::Relaxed) {
            let meanwhile = match self.silence() {
                Some(_) => "what is known counts for a while",
                None => "nobody is let in before it is",
            };
            tracing::warn!(kind = self.kind, error, "the API server is not heard: {meanwhile}");
        }
    }

    /// How long nothing has been heard; none if nothing ever was.
    pub(super) fn silence(&self) -> Option<Duration> {
        self.silence_at(milliseconds_after(self.since)).map(Duration::from_millis)
    }

    /// The same, in milliseconds, so many of them after `since`.
    fn silence_at(&self, now: u64) -> Option<u64> {
        match self.heard.load(Ordering::Relaxed) {
            0 => None,
            heard => Some(now.saturating_sub(heard)),
        }
    }
}

fn milliseconds_after(since: Instant) -> u64 {
    as_milliseconds(since.elapsed())
}

fn as_milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl fmt::Debug for Pulse {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Pulse({}, {:?})", self.kind, self.silence())
    }
}
