//! What was found out about credentials lately, by their keyed hashes.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use quick_cache::sync::{Cache, DefaultLifecycle, EntryAction, EntryResult, PlaceholderGuard};
use quick_cache::{DefaultHashBuilder, UnitWeighter};
use tokio::time::Instant;

use super::AuthenticatorOptions;
use crate::files::Changes;
use crate::keyed_hash::{Hash, KeyedHash, Kind};
use crate::{Authenticated, AuthenticationError, Clock, Credential, Files, NoRandomness};

/// How long it is not asked again when nobody could be reached: those who wait together wait once.
const UNAVAILABLE_FOR: Duration = Duration::from_secs(1);

/// How long a credential that was counted as a failure is not counted as another one, and is looked for in no file of users.
const COUNTED_FOR: Duration = Duration::from_secs(600);

/// What was found out about a credential.
#[derive(Clone, Debug)]
pub(super) enum Verdict {
    Known(Authenticated),
    Rejected(Arc<str>),
    /// Several callers get the same error.
    Unavailable(Arc<dyn std::error::Error + Send + Sync>),
}

impl From<Verdict> for Result<Authenticated, AuthenticationError> {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Known(known) => Ok(known),
            Verdict::Rejected(reason) => Err(AuthenticationError::Rejected(reason.to_string())),
            Verdict::Unavailable(error) => Err(AuthenticationError::Unavailable(error.into())),
        }
    }
}

pub(super) struct Verdicts {
    key: KeyedHash,
    entries: Entries,
    known_for: Duration,
    rejected_for: Duration,
    changes: Changes,
    clock: Clock,
}

type Entries = Cache<Hash, Entry>;
type Guard<'a> =
    PlaceholderGuard<'a, Hash, Entry, UnitWeighter, DefaultHashBuilder, DefaultLifecycle<Hash, Entry>>;

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) verdict: Verdict,
    pub(super) term: Term,
    /// What is known of the credential once that has ended.
    pub(super) past: Past,
}

/// How long a verdict counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Term {
    until: Instant,
    /// How many times the files had changed before it was looked at.
    changes: u64,
}

/// What the memory says of a credential.
pub(super) enum Looked<'a> {
    Found(Entry),
    Missing(Place<'a>),
}

/// Where the verdict about one credential belongs. While it is held, others wait who show the same; when it is dropped, the
/// next of them gets it.
pub(super) struct Place<'a> {
    guard: Guard<'a>,
    verdicts: &'a Verdicts,
    /// What was found when the credential was last looked at.
    before: Option<Entry>,
    /// How many times the files had changed when it was taken.
    changes: u64,
}

/// What is still known of a credential that has to be looked at again.
#[derive(Clone, Copy, Debug)]
pub(super) enum Past {
    Unknown,
    /// It was good when that was last found out.
    Good,
    /// It was counted as a failure, at that time, and no file has changed since: whoever shows it again guesses nothing else, and it is
    /// in none of those that name users.
    Counted(Instant),
}

impl Verdicts {
    pub(super) fn new(options: &AuthenticatorOptions, clock: Clock) -> Result<Self, NoRandomness> {
        let entries = Cache::new(options.remembered);
        let AuthenticatorOptions { known_for, rejected_for, .. } = *options;
        let changes = Changes::default();
        Ok(Self { key: KeyedHash::new()?, entries, known_for, rejected_for, changes, clock })
    }

    pub(super) fn depend_on(&mut self, files: &Files) {
        self.changes = files.changes();
    }

    pub(super) async fn look(&self, credential: &Credential) -> Looked<'_> {
        let hash = self.hash(credential);
        if let Some(entry) = self.entries.get(&hash)
            && self.is_running(&entry.term)
        {
            return Looked::Found(entry);
        }
        let entry = self.entries.entry_async(&hash, |_, entry| {
            if self.is_running(&entry.term) {
                EntryAction::Retain(entry.clone())
            } else {
                EntryAction::ReplaceWithGuard
            }
        });
        let (guard, before) = match entry.await {
            EntryResult::Retained(entry) => return Looked::Found(entry),
            EntryResult::Vacant(guard) => (guard, None),
            EntryResult::Replaced(guard, entry) => (guard, Some(entry)),
            EntryResult::Removed(..) | EntryResult::Timeout => {
                unreachable!("nothing is removed and nobody waits for a limited time")
            }
        };
        Looked::Missing(Place { guard, verdicts: self, before, changes: self.changes.count() })
    }

    pub(super) fn is_running(&self, term: &Term) -> bool {
        Instant::now() < term.until && term.changes == self.changes.count()
    }

    /// How long a verdict counts from now on. What says itself when it ends is not remembered beyond that: its end is by the wall's
    /// clock, and what is left until then by the runtime's.
    fn lifetime(&self, verdict: &Verdict) -> Duration {
        match verdict {
            Verdict::Known(known) => known.expires.map_or(self.known_for, |expires| {
                self.known_for.min(expires.duration_since(self.clock.now()).unwrap_or_default())
            }),
            Verdict::Rejected(_) => self.rejected_for,
            Verdict::Unavailable(_) => UNAVAILABLE_FOR,
        }
    }

    pub(super) fn hash_of_header(&self, header: &[u8]) -> Hash {
        self.key.of(Kind::Header, header)
    }

    fn hash(&self, credential: &Credential) -> Hash {
        match credential {
            Credential::Password { user, password } => {
                self.key.of_list(Kind::Password, [user, password.expose()])
            }
            Credential::Token(token) => self.key.of(Kind::Token, token.expose().as_bytes()),
            Credential::Certificate { common_name, organizations } => {
                let groups = organizations.iter().map(String::as_str);
                self.key.of_list(Kind::Certificate, [common_name.as_str()].into_iter().chain(groups))
            }
            Credential::Unreadable(text) => self.key.of(Kind::Unreadable, text.expose().as_bytes()),
        }
    }
}

impl fmt::Debug for Verdicts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Verdicts").field("entries", &self.entries.len()).finish_non_exhaustive()
    }
}

impl Place<'_> {
    pub(super) fn past(&self) -> Past {
        match &self.before {
            Some(Entry { past: Past::Counted(when), term, .. })
                if term.changes != self.changes || when.elapsed() >= COUNTED_FOR =>
            {
                Past::Unknown
            }
            Some(Entry { past, .. }) => *past,
            None => Past::Unknown,
        }
    }

    pub(super) fn remember(self, verdict: Verdict, past: Past) -> Entry {
        let until = Instant::now() + self.verdicts.lifetime(&verdict);
        let term = Term { until, changes: self.changes };
        let entry = Entry { verdict, term, past };
        // It fails when the entry was evicted meanwhile: then it is looked at again.
        let _ = self.guard.insert(entry.clone());
        entry
    }

    /// Remembers what was known before, as nothing was found out.
    pub(super) fn restore(self) {
        if let Some(before) = self.before {
            let _ = self.guard.insert(before);
        }
    }
}
