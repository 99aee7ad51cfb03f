//! The tokens and passwords that the tests used: nothing that Wharf prints may hold one of them, at any level of its log.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use base64::{Engine as _, prelude::BASE64_STANDARD_NO_PAD};
use regex::Regex;

/// What is looked for: beginnings of secrets, and of what is seen of them in a header.
static SEEN_OF_SECRETS: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// How much of a secret tells it, and how much of one it takes to be one.
const TELLING: usize = 24;
const LEAST: usize = 16;

/// Notes a secret that a test uses. Each part of a token is one.
pub(crate) fn keep(secret: &str) {
    let mut seen = SEEN_OF_SECRETS.lock().unwrap_or_else(PoisonError::into_inner);
    for part in secret.split('.').filter(|part| part.len() >= LEAST) {
        let part = &part[..part.len().min(TELLING)];
        seen.insert(part.to_owned());
        // In a `Basic` header it stands at one of three places in a group of four letters; what is around it mixes with its ends.
        for (before, mixed) in [(0, 0), (1, 2), (2, 3)] {
            let encoded = BASE64_STANDARD_NO_PAD.encode("-".repeat(before) + part);
            seen.insert(encoded[mixed..encoded.len() - 2].to_owned());
        }
    }
}

/// Makes sure that no secret is in what was printed.
#[track_caller]
pub(crate) fn assert_none_in<'a>(lines: impl IntoIterator<Item = &'a str>) {
    let seen = SEEN_OF_SECRETS.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if seen.is_empty() {
        return;
    }
    let any: Vec<_> = seen.iter().map(|secret| regex::escape(secret)).collect();
    let any = Regex::new(&any.join("|")).unwrap();
    for line in lines {
        assert!(!any.is_match(line), "a secret is printed: {line}");
    }
}

#[test]
fn a_secret_is_found_however_it_is_shown() {
    let secret = "eyJhbGciOiJub25lIn0.QSBzZWNyZXQgb2YgdGhpcyB0ZXN0.c2lnbmF0dXJlIG9mIGl0IGFzIHdlbGw";
    keep(secret);
    let is_found = |line: &str| std::panic::catch_unwind(|| assert_none_in([line])).is_err();
    for user in ["", "a", "ab", "abc", "somebody"] {
        let shown = BASE64_STANDARD_NO_PAD.encode(format!("{user}:{secret}"));
        assert!(is_found(&format!("authorization: Basic {shown}")), "{user}");
    }
    for part in secret.split('.') {
        assert!(is_found(&format!("token={part}")));
    }
    assert!(!is_found("the caller is system:serviceaccount:team:robot"));
}
