//! Answers of the API server that are remembered: equal questions are asked once, and while it is away old answers count.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use quick_cache::sync::Cache;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::ClusterError;
use crate::keyed_hash::Hash;

/// How many answers are remembered.
const REMEMBERED: usize = 10_000;

/// What was answered, by the keyed hash of the question.
pub(crate) struct Answers<V> {
    slots: Cache<Hash, Arc<Slot<V>>>,
}

/// How long an answer counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lasting {
    /// Without anybody being asked.
    pub(crate) fresh: Duration,
    /// While nobody can be asked.
    pub(crate) outage: Duration,
}

impl Lasting {
    /// An answer that counts for nothing any more.
    pub(crate) const NOT: Self = Self { fresh: Duration::ZERO, outage: Duration::ZERO };
}

/// Whoever asks holds it, meanwhile others with the same question wait for it: that is what it is for, so it is of the kind that may
/// be held across an await. Whoever hangs up while asking loses nothing.
type Slot<V> = Mutex<Option<Answer<V>>>;

/// What was answered, and when it was asked.
#[derive(Clone, Debug)]
pub(crate) struct Answer<V> {
    pub(crate) value: V,
    pub(crate) asked: Instant,
}

impl<V: Clone> Answers<V> {
    pub(crate) fn new() -> Self {
        Self { slots: Cache::new(REMEMBERED) }
    }

    /// The answer to the question of this hash: a remembered one for as long as it is `lasting`, or one that somebody else was
    /// `told`, or else what `ask` brings.
    pub(crate) async fn get(
        &self,
        question: &Hash,
        told: Option<Answer<V>>,
        lasting: impl Fn(&V) -> Lasting,
        ask: impl Future<Output = Result<V, ClusterError>>,
    ) -> Result<Answer<V>, ClusterError> {
        let Ok(slot) = self.slots.get_or_insert_with(question, || Ok::<_, Infallible>(Arc::default()));
        let mut known = slot.lock().await;
        if let Some(told) = told
            && known.as_ref().is_none_or(|known| known.asked < told.asked)
        {
            *known = Some(told);
        }
        let old = |limit: fn(Lasting) -> Duration| {
            known.clone().filter(|known| known.asked.elapsed() < limit(lasting(&known.value)))
        };
        if let Some(answer) = old(|lasting| lasting.fresh) {
            return Ok(answer);
        }
        let asked = Instant::now();
        match ask.await {
            Ok(value) => Ok(known.insert(Answer { value, asked }).clone()),
            Err(error) if error.is_outage() => old(|lasting| lasting.outage).ok_or(error),
            Err(error) => Err(error),
        }
    }
}

impl<V> fmt::Debug for Answers<V> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Answers").field("slots", &self.slots.len()).finish()
    }
}
