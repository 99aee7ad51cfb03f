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
    fresh_for: Duration,
    outage: Duration,
}

/// Whoever asks holds it, and others with the same question wait for it. Whoever hangs up while asking loses nothing.
type Slot<V> = Mutex<Option<Answer<V>>>;

struct Answer<V> {
    value: V,
    asked: Instant,
}

impl<V: Clone> Answers<V> {
    /// Answers are not asked for again for `fresh_for`, and for `outage` if nobody answers.
    pub(crate) fn new(fresh_for: Duration, outage: Duration) -> Self {
        Self { slots: Cache::new(REMEMBERED), fresh_for, outage }
    }

    /// The answer to the question of this hash, remembered if it still `counts`, or else by `ask`.
    pub(crate) async fn get(
        &self,
        question: &Hash,
        counts: impl Fn(&V) -> bool,
        ask: impl Future<Output = Result<V, ClusterError>>,
    ) -> Result<V, ClusterError> {
        let slot = self.slots.get_or_insert_with(question, || Ok::<_, Infallible>(Arc::default()));
        let Ok(slot) = slot;
        let mut known = slot.lock().await;
        let old = |limit| {
            let answer: &Answer<V> = known.as_ref()?;
            (answer.asked.elapsed() < limit && counts(&answer.value)).then(|| answer.value.clone())
        };
        if let Some(value) = old(self.fresh_for) {
            return Ok(value);
        }
        let asked = Instant::now();
        match ask.await {
            Ok(value) => {
                *known = Some(Answer { value: value.clone(), asked });
                Ok(value)
            }
            Err(error) => old(self.outage).ok_or(error),
        }
    }
}

impl<V> fmt::Debug for Answers<V> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Answers").field("fresh_for", &self.fresh_for).finish_non_exhaustive()
    }
}
