//! Keys that are published somewhere: fetched when needed, by one at a time, and never more than once a second.
//!
//! Whoever may show a token may name keys that do not exist. That costs the publisher one request a second at most, costs
//! memory never, and no answer or failure drops keys that are known until others have taken their place. Those that
//! are old count only while nobody could be asked whether they still do.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::{PublicKey, matching, parse_jwks};
use crate::AuthenticationError;

/// The shortest time between two fetches.
const FETCH_INTERVAL: Duration = Duration::from_secs(1);

/// When keys are fetched again although none is missing, so that one which was withdrawn is forgotten.
const MAX_AGE: Duration = Duration::from_secs(300);

/// How long a fetch may take.
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);

/// How long whoever shows a key that is known, and old, waits for others to be fetched.
const SOON: Duration = Duration::from_secs(2);

/// How long after a fetch that failed nobody else waits for the next: longer than that may take.
const DOUBTED_FOR: Duration = Duration::from_secs(20);

pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Fetches a JSON Web Key Set from where its issuer publishes it, such as `/openid/v1/jwks` of the API server. The place is
/// configured; a token cannot name it.
#[async_trait]
pub trait FetchKeys: fmt::Debug + Send + Sync + 'static {
    /// The document, as it is published now. It is dropped when it takes longer than ten seconds.
    ///
    /// # Errors
    /// When it could not be had.
    async fn fetch(&self) -> Result<Vec<u8>, BoxError>;
}

#[derive(Clone, Debug)]
pub(super) struct FetchedKeys(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    fetch: Arc<dyn FetchKeys>,
    known: RwLock<Known>,
    /// The last fetch. It is held while fetching, across an await, since others are to wait for its end.
    last: Mutex<Option<Fetch>>,
}

#[derive(Debug)]
struct Fetch {
    began: Instant,
    ended: Instant,
    /// Why it failed, if it did.
    outcome: Result<(), Arc<FetchError>>,
}

/// Why keys were not fetched.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("the keys were not there within {} s", FETCH_TIMEOUT.as_secs())]
    TimedOut,
    #[error("the keys cannot be fetched")]
    Failed(#[source] BoxError),
    #[error("what is published are no keys: {0}")]
    Wrong(String),
}

impl Fetch {
    fn is_long_ago(&self) -> bool {
        self.began.elapsed() >= FETCH_INTERVAL
    }
}

#[derive(Clone, Debug, Default)]
struct Known {
    keys: Arc<Vec<Arc<PublicKey>>>,
    /// When the fetch that brought them began.
    since: Option<Instant>,
    /// When the last fetch failed, if none has succeeded since.
    failed: Option<Instant>,
}

impl Known {
    fn are_old(&self) -> bool {
        self.since.is_none_or(|since| since.elapsed() >= MAX_AGE)
    }

    fn failed_lately(&self) -> bool {
        self.failed.is_some_and(|failed| failed.elapsed() < DOUBTED_FOR)
    }
}

impl FetchedKeys {
    pub(super) fn new(fetch: Arc<dyn FetchKeys>) -> Self {
        Self(Arc::new(Shared { fetch, known: RwLock::default(), last: Mutex::default() }))
    }

    pub(super) async fn named(
        &self,
        key_id: Option<&str>,
    ) -> Result<Vec<Arc<PublicKey>>, AuthenticationError> {
        let known = self.0.known();
        let found = matching(&known.keys, key_id);
        // What is old is asked for first. If that failed lately, it counts until somebody may try again, who alone waits then.
        if !found.is_empty() && (!known.are_old() || known.failed_lately() && !self.0.may_fetch()) {
            return Ok(found);
        }
        let patience = if found.is_empty() { Duration::MAX } else { SOON };
        // A task of its own: whoever hangs up while waiting must not take the answer from the others.
        let refresh = tokio::spawn(Arc::clone(&self.0).refresh());
        let outcome = tokio::time::timeout(patience, refresh).await;
        let found = matching(&self.0.known().keys, key_id);
        if !found.is_empty() {
            return Ok(found);
        }
        match outcome {
            Ok(Ok(Ok(()))) | Err(_) => Ok(found),
            Ok(Ok(Err(error))) => Err(AuthenticationError::Unavailable(error.into())),
            Ok(Err(aborted)) => Err(AuthenticationError::Unavailable(aborted.into())),
        }
    }
}

impl Shared {
    fn known(&self) -> Known {
        self.known.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether nobody is fetching, or did within the last second.
    fn may_fetch(&self) -> bool {
        let last = self.last.try_lock();
        last.is_ok_and(|last| last.as_ref().is_none_or(Fetch::is_long_ago))
    }

    /// Fetches, unless somebody else did while this waited for its turn, or did within the last second.
    async fn refresh(self: Arc<Self>) -> Result<(), Arc<FetchError>> {
        let asked = Instant::now();
        let mut last = self.last.lock().await;
        if let Some(last) = &*last
            && (!last.is_long_ago() || last.ended > asked)
        {
            return last.outcome.clone();
        }
        let began = Instant::now();
        let outcome = self.fetch_once(began).await.map_err(Arc::new);
        if let Err(error) = &outcome {
            self.known.write().unwrap_or_else(PoisonError::into_inner).failed = Some(Instant::now());
            let error = &**error as &dyn std::error::Error;
            tracing::warn!(error, "keys not fetched: those that are known stay");
        }
        *last = Some(Fetch { began, ended: Instant::now(), outcome: outcome.clone() });
        outcome
    }

    async fn fetch_once(&self, began: Instant) -> Result<(), FetchError> {
        let fetched = tokio::time::timeout(FETCH_TIMEOUT, self.fetch.fetch()).await;
        let document = fetched.map_err(|_| FetchError::TimedOut)?.map_err(FetchError::Failed)?;
        let keys = Arc::new(parse_jwks(&document).map_err(FetchError::Wrong)?);
        let known = Known { keys, since: Some(began), failed: None };
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = known;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use tokio::runtime::Handle;

    use super::*;
    use crate::keys::tests::TestKey;

    /// Publishes what it is told to, and counts who asks.
    #[derive(Debug, Default)]
    struct Publisher {
        document: RwLock<Option<String>>,
        hangs: AtomicBool,
        asked: AtomicUsize,
    }

    impl Publisher {
        fn publish(&self, keys: &[&TestKey]) {
            let entries: Vec<_> = keys.iter().map(|key| key.jwk()).collect();
            let document = serde_json::json!({ "keys": entries }).to_string();
            *self.document.write().unwrap() = Some(document);
        }

        fn vanish(&self) {
            *self.document.write().unwrap() = None;
        }

        fn asked(&self) -> usize {
            self.asked.load(Ordering::SeqCst)
        }
    }

    #[async_trait]
    impl FetchKeys for Publisher {
        async fn fetch(&self) -> Result<Vec<u8>, BoxError> {
            self.asked.fetch_add(1, Ordering::SeqCst);
            if self.hangs.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            let document = self.document.read().unwrap().clone();
            Ok(document.ok_or("connection refused")?.into_bytes())
        }
    }

    async fn found(keys: &FetchedKeys, id: &str) -> Result<usize, AuthenticationError> {
        keys.named(Some(id)).await.map(|found| found.len())
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_key_is_found_when_a_token_first_names_it() {
        let (old, new) = (TestKey::p256(), TestKey::p384());
        let publisher = Arc::new(Publisher::default());
        publisher.publish(&[&old]);
        let keys = FetchedKeys::new(publisher.clone());
        assert_eq!(found(&keys, &old.id()).await.unwrap(), 1);
        publisher.publish(&[&old, &new]);
        tokio::time::advance(FETCH_INTERVAL).await;
        assert_eq!(found(&keys, &new.id()).await.unwrap(), 1);
        assert_eq!(found(&keys, &old.id()).await.unwrap(), 1);
        assert_eq!(publisher.asked(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_who_ask_at_once_cost_one_fetch() {
        let key = TestKey::p256();
        let publisher = Arc::new(Publisher::default());
        publisher.publish(&[&key]);
        let keys = FetchedKeys::new(publisher.clone());
        let mut callers = tokio::task::JoinSet::new();
        for _ in 0..1000 {
            let (keys, id) = (keys.clone(), key.id());
            callers.spawn(async move { found(&keys, &id).await.unwrap() });
        }
        assert_eq!(callers.join_all().await, vec![1; 1000]);
        assert_eq!(publisher.asked(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn names_that_do_not_exist_cost_one_fetch_a_second_and_no_key() {
        let key = TestKey::p256();
        let publisher = Arc::new(Publisher::default());
        publisher.publish(&[&key]);
        let keys = FetchedKeys::new(publisher.clone());
        assert_eq!(found(&keys, &key.id()).await.unwrap(), 1);
        publisher.vanish();
        let began = Instant::now();
        for number in 0..100 {
            let _ = found(&keys, &format!("made-up-{number}")).await;
            assert_eq!(found(&keys, &key.id()).await.unwrap(), 1);
            tokio::time::advance(Duration::from_millis(50)).await;
        }
        let seconds = usize::try_from(began.elapsed().as_secs()).unwrap();
        assert!((3..=seconds + 2).contains(&publisher.asked()), "{} in {seconds} s", publisher.asked());
    }

    #[tokio::test(start_paused = true)]
    async fn a_publisher_who_is_away_is_not_the_tokens_fault() {
        let publisher = Arc::new(Publisher::default());
        let keys = FetchedKeys::new(publisher.clone());
        let id = TestKey::p256().id();
        assert!(matches!(found(&keys, &id).await, Err(AuthenticationError::Unavailable(_))));
        // Nor within the second in which nobody asks again.
        assert!(matches!(found(&keys, &id).await, Err(AuthenticationError::Unavailable(_))));
        // A document without a key in it is no better.
        publisher.publish(&[]);
        tokio::time::advance(FETCH_INTERVAL).await;
        assert!(matches!(found(&keys, &id).await, Err(AuthenticationError::Unavailable(_))));
        publisher.publish(&[&TestKey::p384()]);
        tokio::time::advance(FETCH_INTERVAL).await;
        assert_eq!(found(&keys, &id).await.unwrap(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_that_was_withdrawn_is_forgotten_in_time() {
        let (old, new) = (TestKey::p256(), TestKey::p384());
        let publisher = Arc::new(Publisher::default());
        publisher.publish(&[&old]);
        let keys = FetchedKeys::new(publisher.clone());
        assert_eq!(found(&keys, &old.id()).await.unwrap(), 1);
        publisher.publish(&[&new]);
        tokio::time::advance(MAX_AGE).await;
        assert_eq!(found(&keys, &old.id()).await.unwrap(), 0);
        assert_eq!(publisher.asked(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn old_keys_count_while_their_publisher_is_away_and_hold_up_one_request_at_a_time() {
        let (old, new) = (TestKey::p256(), TestKey::p384());
        let publisher = Arc::new(Publisher::default());
        publisher.publish(&[&old]);
        let keys = FetchedKeys::new(publisher.clone());
        assert_eq!(found(&keys, &old.id()).await.unwrap(), 1);
        publisher.vanish();
        tokio::time::advance(MAX_AGE).await;
        let at_once = async || {
            let began = Instant::now();
            for _ in 0..100 {
                assert_eq!(found(&keys, &old.id()).await.unwrap(), 1);
            }
            assert_eq!(began.elapsed(), Duration::ZERO);
        };
        assert_eq!(found(&keys, &old.id()).await.unwrap(), 1);
        at_once().await;
        assert_eq!(publisher.asked(), 2);

        // It hangs: who asks next waits for a moment, and nobody else while it does; one task is left behind.
        publisher.hangs.store(true, Ordering::SeqCst);
        tokio::time::advance(FETCH_INTERVAL).await;
        let began = Instant::now();
        assert_eq!(found(&keys, &old.id()).await.unwrap(), 1);
        assert!((SOON..SOON * 2).contains(&began.elapsed()), "{:?}", began.elapsed());
        at_once().await;
        assert_eq!((publisher.asked(), Handle::current().metrics().num_alive_tasks()), (3, 1));

        // It is back, and says that the key is not.
        publisher.hangs.store(false, Ordering::SeqCst);
        publisher.publish(&[&new]);
        tokio::time::sleep(FETCH_TIMEOUT).await;
        assert_eq!(found(&keys, &old.id()).await.unwrap(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn while_their_publisher_hangs_nobody_waits_long_who_shows_a_key_that_is_known() {
        let key = TestKey::p256();
        let publisher = Arc::new(Publisher::default());
        publisher.publish(&[&key]);
        let keys = FetchedKeys::new(publisher.clone());
        assert_eq!(found(&keys, &key.id()).await.unwrap(), 1);
        publisher.hangs.store(true, Ordering::SeqCst);
        tokio::time::advance(MAX_AGE).await;
        let began = Instant::now();
        let id = key.id();
        let all = futures_util::future::join_all((0..100).map(|_| found(&keys, &id))).await;
        assert!(all.into_iter().all(|found| found.unwrap() == 1));
        assert!((SOON..SOON * 2).contains(&began.elapsed()), "{:?}", began.elapsed());
        assert_eq!(publisher.asked(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn who_hangs_up_takes_nothing_from_the_others() {
        let key = TestKey::p256();
        let publisher = Arc::new(Publisher::default());
        publisher.publish(&[&key]);
        let keys = FetchedKeys::new(publisher.clone());
        let hung_up = tokio::time::timeout(Duration::from_millis(10), keys.named(None)).await;
        assert!(hung_up.is_err());
        assert_eq!(keys.named(None).await.unwrap().len(), 1);
        assert_eq!(publisher.asked(), 1);
    }
}
