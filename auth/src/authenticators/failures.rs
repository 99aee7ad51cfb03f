//! Who failed how often: of each source, up to when its failures have been paid for, and how many attempts are under way.
//!
//! Each attempt takes a place when it begins, as if it had failed: a thousand guesses at once are no more than one after the other.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quick_cache::sync::Cache;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::AuthenticatorOptions;

/// How many sources are remembered. Whoever has more addresses than that guesses at the pace of the server.
const SOURCES: usize = 10_000;

#[derive(Debug)]
pub(super) struct Failures {
    sources: Cache<IpAddr, Arc<Source>>,
    every: Duration,
    /// What a failure costs that was counted before.
    repeated: Duration,
    at_once: Duration,
}

#[derive(Debug)]
struct Source {
    account: Mutex<Account>,
    /// An attempt ended.
    ended: Notify,
}

#[derive(Debug)]
struct Account {
    paid_until: Instant,
    under_way: u32,
}

/// Whether an attempt may begin.
enum Turn {
    Begun,
    /// Once another one has ended well.
    Later,
    /// Not before this time has passed.
    After(Duration),
}

impl Failures {
    pub(super) fn new(options: &AuthenticatorOptions) -> Self {
        let (every, failures) = (options.failure_every, options.failures.max(1));
        let (repeated, at_once) = (every / failures, every.saturating_mul(failures));
        Self { sources: Cache::new(SOURCES), every, repeated, at_once }
    }

    /// Begins an attempt of `source`, when those under way leave room for one.
    ///
    /// # Errors
    /// How long nothing is to be asked for `source`, if it failed too often.
    ///
    /// # Cancel safety
    /// If dropped, there was no attempt.
    pub(super) async fn attempt(&self, source: IpAddr) -> Result<Attempt, Duration> {
        let source = self.source(source);
        loop {
            let ended = source.ended.notified();
            match source.turn(self.every, self.at_once) {
                Turn::Begun => return Ok(self.begun(Arc::clone(&source))),
                Turn::Later => ended.await,
                Turn::After(wait) => return Err(wait),
            }
        }
    }

    /// Begins an attempt of `source` with what was good before: it waits for no other, however many failed.
    pub(super) fn attempt_again(&self, source: IpAddr) -> Attempt {
        let source = self.source(source);
        source.account().under_way += 1;
        self.begun(source)
    }

    fn begun(&self, source: Arc<Source>) -> Attempt {
        Attempt { source, price: self.every, repeated: self.repeated }
    }

    fn source(&self, address: IpAddr) -> Arc<Source> {
        let new = || {
            let account = Mutex::new(Account { paid_until: Instant::now(), under_way: 0 });
            Ok::<_, std::convert::Infallible>(Arc::new(Source { account, ended: Notify::new() }))
        };
        match self.sources.get_or_insert_with(&network(address), new) {
            Ok(source) => source,
            Err(never) => match never {},
        }
    }
}

impl Source {
    fn turn(&self, every: Duration, at_once: Duration) -> Turn {
        let mut account = self.account();
        let owed = account.paid_until.saturating_duration_since(Instant::now());
        // One more failure has to fit.
        let wait = (owed + every).saturating_sub(at_once);
        if !wait.is_zero() {
            return Turn::After(wait);
        }
        if owed + every.saturating_mul(account.under_way + 1) > at_once {
            return Turn::Later;
        }
        account.under_way += 1;
        Turn::Begun
    }

    fn end(&self, cost: Duration) {
        let mut account = self.account();
        account.under_way -= 1;
        account.paid_until = account.paid_until.max(Instant::now()) + cost;
        drop(account);
        self.ended.notify_waiters();
    }

    fn account(&self) -> std::sync::MutexGuard<'_, Account> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One attempt under way. It has failed unless it is said to have gone well: whoever hangs up guesses on.
pub(super) struct Attempt {
    source: Arc<Source>,
    price: Duration,
    repeated: Duration,
}

impl Attempt {
    /// It was no failure.
    pub(super) fn forgive(mut self) {
        self.price = Duration::ZERO;
    }

    /// It failed with what has been counted as a failure before. That is no guess, but work, and costs a part of one: as many may be
    /// shown all the time as may fail at once.
    pub(super) fn repeat(mut self) {
        self.price = self.repeated;
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.source.end(self.price);
    }
}

/// What belongs to one customer: whoever has one IPv6 address has all that begin like it.
fn network(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failures(at_once: u32) -> Failures {
        let options = AuthenticatorOptions { failures: at_once, ..AuthenticatorOptions::default() };
        Failures::new(&options)
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    async fn wait(failures: &Failures, source: IpAddr) -> Option<Duration> {
        match failures.attempt(source).await {
            Ok(attempt) => {
                attempt.forgive();
                None
            }
            Err(wait) => Some(wait),
        }
    }

    async fn fail(failures: &Failures, source: IpAddr) {
        assert!(failures.attempt(source).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_failed_often_waits_and_is_heard_again() {
        let (failures, source) = (failures(3), address("192.0.2.1"));
        for _ in 0..3 {
            assert_eq!(wait(&failures, source).await, None);
            fail(&failures, source).await;
        }
        assert_eq!(wait(&failures, source).await, Some(Duration::from_secs(5)));
        tokio::time::advance(Duration::from_secs(5)).await;
        fail(&failures, source).await;
        assert_eq!(wait(&failures, source).await, Some(Duration::from_secs(5)));
        tokio::time::advance(Duration::from_secs(60)).await;
        for _ in 0..3 {
            assert_eq!(wait(&failures, source).await, None);
            fail(&failures, source).await;
        }
        assert!(wait(&failures, source).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn as_many_failures_that_were_counted_before_as_may_be_at_once_cost_one() {
        let (failures, source) = (failures(20), address("192.0.2.1"));
        for _ in 0..20 {
            failures.attempt(source).await.unwrap().repeat();
        }
        for _ in 0..19 {
            fail(&failures, source).await;
        }
        assert_eq!(wait(&failures, source).await, Some(Duration::from_secs(5)));
    }

    #[tokio::test(start_paused = true)]
    async fn each_source_fails_for_itself() {
        let failures = failures(1);
        fail(&failures, address("192.0.2.1")).await;
        fail(&failures, address("2001:db8:0:1::1")).await;
        for same in ["192.0.2.1", "::ffff:192.0.2.1", "2001:db8:0:1::1", "2001:db8:0:1:ffff::9"] {
            assert!(wait(&failures, address(same)).await.is_some(), "{same}");
        }
        for other in ["192.0.2.2", "2001:db8:0:2::1", "::1"] {
            assert_eq!(wait(&failures, address(other)).await, None, "{other}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_at_once_are_no_more_than_one_after_the_other() {
        let (failures, source) = (failures(2), address("192.0.2.1"));
        let (one, two) = (failures.attempt(source).await.unwrap(), failures.attempt(source).await.unwrap());
        let mut third = std::pin::pin!(failures.attempt(source));
        assert!(futures_util::poll!(third.as_mut()).is_pending());
        // One that goes well leaves its place to the next; what was good before waits for nobody.
        failures.attempt_again(source).forgive();
        one.forgive();
        let third = third.await.unwrap();
        let mut fourth = std::pin::pin!(failures.attempt(source));
        assert!(futures_util::poll!(fourth.as_mut()).is_pending());
        drop((two, third));
        assert_eq!(fourth.await.err(), Some(Duration::from_secs(5)));
        // However many failed at once, nobody waits longer than for one.
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(wait(&failures, source).await, None);
    }
}
