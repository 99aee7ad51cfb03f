//! Keyed hashes of what is secret, under which things about it are remembered: neither the memory nor the order of its entries
//! gives anything away, and nobody can make two that collide.

use std::fmt;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;

pub(crate) type Hash = [u8; 32];

/// The system gives no random bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the system gives no random bytes")]
pub struct NoRandomness;

/// A key that no other process has.
pub(crate) struct KeyedHash(hmac::Key);

impl KeyedHash {
    pub(crate) fn new() -> Result<Self, NoRandomness> {
        hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).map(Self).map_err(|_| NoRandomness)
    }

    /// Lengths go before what has one, so that no two lists of parts are written alike.
    pub(crate) fn of<'a>(&self, parts: impl IntoIterator<Item = &'a str>) -> Hash {
        let mut context = hmac::Context::with_key(&self.0);
        for part in parts {
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part.as_bytes());
        }
        let mut hash = Hash::default();
        hash.copy_from_slice(context.sign().as_ref());
        hash
    }
}

impl fmt::Debug for KeyedHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("KeyedHash")
    }
}
