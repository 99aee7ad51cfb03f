//! What a backend was asked, how often it failed, and how long it took: for the metrics.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::around::{Around, Verb};
use super::{BackendError, Fault};

/// Counts the calls that it stands around. Reading it disturbs nobody; the numbers of one verb may be of slightly different moments.
#[derive(Debug, Default)]
pub struct Counters([Counter; Verb::ALL.len()]);

/// The times by which calls are told apart, from a file in memory to a store that hardly answers.
pub const BOUNDS: [Duration; 12] = [
    Duration::from_micros(100),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(60),
];

/// What was counted of one verb since the counters were made. Each number only grows.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Count {
    /// Calls that were answered, well or not, by how long it took: up to each of [`BOUNDS`] and longer than the one before, and
    /// longer than all of them. One that its caller dropped is not counted.
    pub calls: [u64; BOUNDS.len() + 1],
    /// Calls that the store failed. To say that something is busy or too large is no failure.
    pub errors: u64,
    /// How long the answers took altogether.
    pub time: Duration,
}

impl Count {
    /// All calls that were answered.
    pub fn total(&self) -> u64 {
        self.calls.iter().sum()
    }
}

#[derive(Debug, Default)]
struct Counter {
    calls: [AtomicU64; BOUNDS.len() + 1],
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
        let bucket = BOUNDS.partition_point(|bound| *bound < time);
        self.calls[bucket].fetch_add(1, Ordering::Relaxed);
    }

    fn read(&self) -> Count {
        Count {
            calls: self.calls.each_ref().map(|calls| calls.load(Ordering::Relaxed)),
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

        let counted: Vec<_> = counters.counts().filter(|(_, count)| count.total() > 0).collect();
        let [(Verb::Read, read), (Verb::Write, written)] = counted[..] else { panic!("{counted:?}") };
        assert_eq!((read.total(), read.errors), (1, 0));
        assert_eq!((written.total(), written.errors), (3, 1));
        assert!(written.time > Duration::ZERO);
    }

    #[test]
    fn a_call_counts_below_the_first_bound_that_it_does_not_exceed() {
        let counter = Counter::default();
        let times = [Duration::ZERO, BOUNDS[0], BOUNDS[0] + Duration::from_nanos(1), Duration::from_secs(61)];
        times.iter().for_each(|time| counter.add(*time, false));
        let calls = counter.read().calls;
        assert_eq!((calls[0], calls[1], calls[BOUNDS.len()]), (2, 1, 1));
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
