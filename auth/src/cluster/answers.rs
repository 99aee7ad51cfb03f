//! Answers of the API server that are remembered: equal questions are asked once, and while it is away old answers count.
//!
//! A question is a task of its own. So whoever hangs up takes nothing from others who wait for the same answer, and whoever can do
//! with an old one need not wait for an API server that is silent.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use quick_cache::sync::Cache;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout_at};

use super::{About, Cluster, ClusterError};
use crate::keyed_hash::Hash;

/// How many answers are remembered.
const REMEMBERED: usize = 10_000;

/// How long whoever has an old answer waits for a new one from an API server that seems to be silent. One that is well answers
/// somebody sooner, and then it is waited for. So nobody who makes it seem silent has old answers count in its place.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a cluster answered, by the keyed hash of the question.
pub(crate) struct Answers<V> {
    cluster: Cluster,
    about: About,
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

/// What was answered, and when it was asked.
#[derive(Clone, Debug)]
pub(crate) struct Answer<V> {
    pub(crate) value: V,
    pub(crate) asked: Instant,
}

/// An answer, or why there is none: that is shared by all who waited for it.
type Outcome<V> = Result<Answer<V>, Arc<ClusterError>>;

/// One question. The lock is held for moments.
struct Slot<V>(Mutex<State<V>>);

struct State<V> {
    known: Option<Answer<V>>,
    asking: Option<Asking<V>>,
    /// Whether nobody answered when it was asked last.
    is_unanswered: bool,
}

/// A question that is under way, or was.
#[derive(Clone)]
struct Asking<V> {
    began: Instant,
    /// How often the API server had answered such questions until then.
    heard: u64,
    task: AbortHandle,
    outcome: Shared<BoxFuture<'static, Outcome<V>>>,
}

impl<V: Clone + Send + Sync + 'static> Answers<V> {
    /// Remembers nothing yet of what `cluster` says `about` them.
    pub(crate) fn new(cluster: Cluster, about: About) -> Self {
        Self { cluster, about, slots: Cache::new(REMEMBERED) }
    }

    /// The answer to the question of this hash: a remembered one for as long as it is `lasting`, or one that somebody else was
    /// `told`, or else what `ask` brings.
    pub(crate) async fn get<F>(
        &self,
        question: &Hash,
        told: Option<Answer<V>>,
        lasting: impl Fn(&V) -> Lasting,
        ask: impl FnOnce(About) -> F,
    ) -> Outcome<V>
    where
        F: Future<Output = Result<V, ClusterError>> + Send + 'static,
    {
        let Ok(slot) = self.slots.get_or_insert_with(question, || Ok::<_, Infallible>(Arc::default()));
        let old = |state: &State<V>, limit: fn(Lasting) -> Duration| {
            state.known.clone().filter(|known| known.asked.elapsed() < limit(lasting(&known.value)))
        };
        let (asking, patience) = {
            let mut state = slot.lock();
            if let Some(told) = told {
                state.learn(told);
            }
            if let Some(answer) = old(&state, |lasting| lasting.fresh) {
                return Ok(answer);
            }
            let is_impatient = self.cluster.seems_silent() && old(&state, |lasting| lasting.outage).is_some();
            let patience = if state.is_unanswered { Duration::ZERO } else { PATIENCE };
            let under_way = state.asking.take().filter(|asking| !asking.task.is_finished());
            let heard = self.cluster.heard(self.about);
            let asking = under_way.unwrap_or_else(|| slot.begin(heard, ask(self.about)));
            state.asking = Some(asking.clone());
            (asking, is_impatient.then_some(patience))
        };
        let outcome = match patience {
            // It has an end of its own.
            None => asking.outcome.await,
            Some(patience) => self.wait(asking, patience).await,
        };
        match outcome {
            Err(error) if error.is_outage() => old(&slot.lock(), |lasting| lasting.outage).ok_or(error),
            outcome => outcome,
        }
    }

    /// What comes of a question or, if nobody has been answered when `patience` is over, that the API server is away. While it
    /// answers others it is not, and the question may be waiting for its turn.
    async fn wait(&self, asking: Asking<V>, patience: Duration) -> Outcome<V> {
        let Asking { began, heard, outcome, .. } = asking;
        match timeout_at(began + patience, outcome.clone()).await {
            Ok(outcome) => outcome,
            Err(_) if self.cluster.heard(self.about) == heard => Err(ClusterError::Away.into()),
            Err(_) => outcome.await,
        }
    }
}

impl<V: Clone + Send + Sync + 'static> Slot<V> {
    fn begin(
        self: &Arc<Self>,
        heard: u64,
        ask: impl Future<Output = Result<V, ClusterError>> + Send + 'static,
    ) -> Asking<V> {
        let (began, slot) = (Instant::now(), Arc::clone(self));
        let task = tokio::spawn(async move {
            let outcome = ask.await;
            let mut state = slot.lock();
            state.is_unanswered = outcome.as_ref().is_err_and(ClusterError::is_outage);
            let answer = Answer { value: outcome?, asked: began };
            state.learn(answer.clone());
            Ok(answer)
        });
        let handle = task.abort_handle();
        let outcome =
            task.map(|ended| ended.unwrap_or_else(|error| Err(ClusterError::BrokeOff(error).into())));
        Asking { began, heard, task: handle, outcome: outcome.boxed().shared() }
    }
}

impl<V> Slot<V> {
    fn lock(&self) -> MutexGuard<'_, State<V>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<V> Default for Slot<V> {
    fn default() -> Self {
        Self(Mutex::new(State { known: None, asking: None, is_unanswered: false }))
    }
}

impl<V> State<V> {
    /// Whoever asked last knows best.
    fn learn(&mut self, answer: Answer<V>) {
        if self.known.as_ref().is_none_or(|known| known.asked < answer.asked) {
            self.known = Some(answer);
        }
    }
}

impl<V> fmt::Debug for Answers<V> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Answers").field("slots", &self.slots.len()).finish()
    }
}
