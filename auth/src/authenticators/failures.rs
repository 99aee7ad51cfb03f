//! Who failed how often: one point in time for each source, up to which its failures have been paid for.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use quick_cache::sync::{Cache, EntryAction, EntryResult};
use tokio::time::Instant;

use super::AuthenticatorOptions;

/// How many sources are remembered. Whoever has more addresses than that guesses at the pace of the server.
const SOURCES: usize = 10_000;

#[derive(Debug)]
pub(super) struct Failures {
    paid_until: Cache<IpAddr, Instant>,
    every: Duration,
    at_once: Duration,
}

impl Failures {
    pub(super) fn new(options: &AuthenticatorOptions) -> Self {
        let (every, failures) = (options.failure_every, options.failures.max(1));
        Self { paid_until: Cache::new(SOURCES), every, at_once: every.saturating_mul(failures) }
    }

    /// How long nothing is to be asked for `source`, if it failed too often.
    pub(super) fn wait(&self, source: IpAddr) -> Option<Duration> {
        let owed = self.paid_until.get(&network(source))?.saturating_duration_since(Instant::now());
        // One more failure has to fit.
        (owed + self.every).checked_sub(self.at_once).filter(|wait| !wait.is_zero())
    }

    /// Begins an attempt of `source`.
    pub(super) fn attempt(&self, source: IpAddr) -> Attempt<'_> {
        Attempt { failures: self, source }
    }

    /// Counts a failure.
    pub(super) fn note(&self, source: IpAddr) {
        let (network, now) = (network(source), Instant::now());
        let later = |paid_until: Instant| paid_until.max(now) + self.every;
        let noted = self.paid_until.entry(&network, None, |_, paid_until| {
            *paid_until = later(*paid_until);
            EntryAction::Retain(())
        });
        if let EntryResult::Vacant(place) = noted {
            // It fails when there are too many sources to remember this one.
            let _ = place.insert(later(now));
        }
    }
}

/// One attempt under way. It has failed unless it is said to have gone well: whoever hangs up guesses on.
pub(super) struct Attempt<'a> {
    failures: &'a Failures,
    source: IpAddr,
}

impl Attempt<'_> {
    /// It was no failure.
    pub(super) fn forgive(self) {
        std::mem::forget(self);
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        self.failures.note(self.source);
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

    #[tokio::test(start_paused = true)]
    async fn a_source_that_failed_often_waits_and_is_heard_again() {
        let (failures, source) = (failures(3), address("192.0.2.1"));
        for _ in 0..3 {
            assert_eq!(failures.wait(source), None);
            failures.note(source);
        }
        assert_eq!(failures.wait(source), Some(Duration::from_secs(5)));
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(failures.wait(source), None);
        failures.note(source);
        assert_eq!(failures.wait(source), Some(Duration::from_secs(5)));
        tokio::time::advance(Duration::from_secs(60)).await;
        for _ in 0..3 {
            assert_eq!(failures.wait(source), None);
            failures.note(source);
        }
        assert!(failures.wait(source).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn each_source_fails_for_itself() {
        let failures = failures(1);
        failures.note(address("192.0.2.1"));
        failures.note(address("2001:db8:0:1::1"));
        for same in ["192.0.2.1", "::ffff:192.0.2.1", "2001:db8:0:1::1", "2001:db8:0:1:ffff::9"] {
            assert!(failures.wait(address(same)).is_some(), "{same}");
        }
        for other in ["192.0.2.2", "2001:db8:0:2::1", "::1"] {
            assert_eq!(failures.wait(address(other)), None, "{other}");
        }
    }
}
