//! What a backend was asked, how often it failed, and how long it took: for the metrics.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::around::{Around, Verb};
use super::{BackendError, Fault};

/// Counts the calls that it stands around. Reading it disturbs nobody; the numbers of one verb may be of slightly different moments.
#[derive(Debug, Default)]
pub struct Counters([Counter; Verb::ALL.len()]);

/// What was counted of one verb since the counters were made. Each number only grows.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Count {
    /// Calls that were answered, well or not. One that its caller dropped is not counted.
    pub calls: u64,
    /// Calls that the store failed. To say that something is busy or too large is no failure.
    pub errors: u64,
    /// How long the answers took altogether.
    pub time: Duration,
}

#[derive(Debug, Default)]
struct Counter {
    calls: AtomicU64,
    errors: AtomicU64,
    nanoseconds: AtomicU64,
}

impl Counters {
    /// What was counted, verb by verb.
    pub fn counts(&self) -> impl Iterator<Item = (Verb, Count)> {
        Verb::ALL.into_iter().map(|verb| (verb, self.0[verb as usize].read()))
    }
}

impl Around for Counters {
    async fn around<T: Send>(
        &self,
        verb: Verb,
        call: impl Future<Output = Result<T, BackendError>> + Send,
    ) -> Result<T, BackendError> {
        let begin = Instant::now();
        let answer = call.await;
        let failed = answer.as_ref().is_err_and(|error| match error.fault {
            Fault::Full | Fault::Denied | Fault::Unavailable => true,
            Fault::Busy | Fault::TooLarge => false,
        });
        self.0[verb as usize].add(begin.elapsed(), failed);
        answer
    }
}

impl Counter {
    fn add(&self, time: Duration, failed: bool) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
        self.errors.fetch_add(failed.into(), Ordering::Relaxed);
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    fn read(&self) -> Count {
        Count {
            calls: self.calls.load(Ordering::Relaxed),
            errors: self.errors.load(Ordering::Relaxed),
            time: Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::backend::around::Surrounded;
    use crate::backend::bucket::Bucket;
    use crate::backend::fault::{Failure, Faults, Moment};
    use crate::backend::{Backend, conformance};
    use crate::{Algorithm, Digest, layout};

    #[tokio::test]
    async fn calls_and_failures_are_counted_by_verb() {
        let (faults, counters) = (Arc::new(Faults::default()), Arc::new(Counters::default()));
        let faulty = Surrounded::new(Arc::new(Bucket::in_memory()), faults.clone());
        let backend = Surrounded::new(Arc::new(faulty), counters.clone());
        let key = layout::blob(&Digest::of(Algorithm::Sha256, b"12345"));
        backend.write(&key, "12345".into()).await.unwrap();
        backend.write(&key, "12345".into()).await.unwrap();
        assert!(backend.read(&key, 3).await.is_err(), "too large");
        faults.fail(0, Failure { fault: Fault::Full, moment: Moment::Before });
        assert!(backend.write(&key, "12345".into()).await.is_err());

        let counted: Vec<_> = counters.counts().filter(|(_, count)| count.calls > 0).collect();
        let [(Verb::Read, read), (Verb::Write, written)] = counted[..] else { panic!("{counted:?}") };
        assert_eq!((read.calls, read.errors), (1, 0));
        assert_eq!((written.calls, written.errors), (3, 1));
        assert!(written.time > Duration::ZERO);
    }

    #[test]
    fn every_verb_has_a_counter_of_its_own() {
        assert!(Verb::ALL.into_iter().enumerate().all(|(at, verb)| verb as usize == at));
    }

    #[tokio::test]
    async fn a_counted_backend_keeps_the_contract() {
        conformance::check(|| {
            let counted: Arc<dyn Backend> =
                Arc::new(Surrounded::new(Arc::new(Bucket::in_memory()), Arc::new(Counters::default())));
            conformance::Replicas { here: counted.clone(), there: counted }
        })
        .await;
    }
}
