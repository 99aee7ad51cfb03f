//! The keys of the registry's own tokens, in use and on their way in or out.

use std::fmt;
use std::path::Path;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};

use crate::NoRandomness;
use crate::files::{FileError, Files, Watched};

/// The shortest line that is taken for a key, in bytes, and how many there may be.
pub(super) const MIN_KEY_BYTES: usize = 32;
pub(super) const MAX_KEYS: usize = 16;

/// What keys are for. Another key is made of the same line for anything else.
const PURPOSE: &[u8] = b"tokens of the registry, 1";

/// The keys that the registry's tokens are sealed with.
pub struct RegistryTokenKeys(Watched<Keys>);

struct Keys {
    /// Makes tokens.
    first: Key,
    /// Only open them.
    others: Vec<Key>,
}

/// Seals and opens by AES-256-GCM-SIV (RFC 8452): its nonces may be drawn at random, however many tokens are made.
struct Key(RandomizedNonceKey);

impl RegistryTokenKeys {
    /// A key that is made now and kept nowhere. Each replica then knows the tokens that it made itself, and none of those
    /// from before it was restarted.
    pub fn random() -> Result<Self, NoRandomness> {
        let mut secret = [0; MIN_KEY_BYTES];
        SystemRandom::new().fill(&mut secret).map_err(|_| NoRandomness)?;
        let first = Key::of(&secret).ok_or(NoRandomness)?;
        Ok(Self(Watched::fixed(Keys { first, others: Vec::new() })))
    }

    /// Keys from a file, one a line, and again when it changes: the first makes tokens, all open them. A line is 32 bytes or
    /// more, such as `openssl rand -hex 32` prints. To change keys while replicas read the file at different times, add
    /// the new one at the end, then move it to the top, then remove the old one, minutes apart. Blocks: this is for the
    /// start.
    ///
    /// # Errors
    /// When the file cannot be read, or a line is too short.
    pub fn from_file(path: &Path, files: &Files) -> Result<Self, FileError> {
        files.watch(path, Keys::parse).map(Self)
    }

    /// Makes something of `contents` that nobody else can make or read.
    pub(super) fn seal(&self, contents: Vec<u8>) -> Result<Vec<u8>, NoRandomness> {
        self.0.current().first.seal(contents).ok_or(NoRandomness)
    }

    /// What was sealed by one of the keys.
    pub(super) fn open(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        let keys = self.0.current();
        [&keys.first].into_iter().chain(&keys.others).find_map(|key| key.open(sealed))
    }
}

impl fmt::Debug for RegistryTokenKeys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("RegistryTokenKeys([redacted])")
    }
}

impl Keys {
    fn parse(contents: &[u8]) -> Result<Self, String> {
        let lines = contents.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).enumerate();
        let mut keys = Vec::new();
        for (index, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with(b"#")) {
            let number = index + 1;
            if line.len() < MIN_KEY_BYTES {
                return Err(format!(
                    "line {number} is shorter than {MIN_KEY_BYTES} bytes; try `openssl rand -hex 32`"
                ));
            }
            keys.push(Key::of(line).ok_or_else(|| format!("no key can be made of line {number}"))?);
        }
        if keys.len() > MAX_KEYS {
            return Err(format!("it has more than {MAX_KEYS} keys"));
        }
        let mut keys = keys.into_iter();
        let first = keys.next().ok_or_else(|| "it has no key; try `openssl rand -hex 32`".to_owned())?;
        Ok(Self { first, others: keys.collect() })
    }
}

impl Key {
    fn of(secret: &[u8]) -> Option<Self> {
        let mut key = [0; 32];
        let derived = Salt::new(HKDF_SHA256, &[]).extract(secret);
        derived.expand(&[PURPOSE], &AES_256_GCM_SIV).ok()?.fill(&mut key).ok()?;
        RandomizedNonceKey::new(&AES_256_GCM_SIV, &key).ok().map(Self)
    }

    /// A nonce, and what it was sealed with.
    fn seal(&self, mut contents: Vec<u8>) -> Option<Vec<u8>> {
        let nonce = self.0.seal_in_place_append_tag(Aad::empty(), &mut contents).ok()?;
        Some([nonce.as_ref(), contents.as_slice()].concat())
    }

    fn open(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, contents) = sealed.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut contents = contents.to_vec();
        let length = self.0.open_in_place(nonce, Aad::empty(), &mut contents).ok()?.len();
        contents.truncate(length);
        Some(contents)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(letter: char) -> String {
        letter.to_string().repeat(MIN_KEY_BYTES) + "\n"
    }

    #[test]
    fn a_file_of_keys_is_read_again_and_refused_where_it_is_weak() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        std::fs::write(&path, line('a')).unwrap();
        let files = Files::new();
        let keys = RegistryTokenKeys::from_file(&path, &files).unwrap();
        let sealed = keys.seal(b"contents".to_vec()).unwrap();
        assert_eq!(keys.open(&sealed).as_deref(), Some(&b"contents"[..]));
        std::fs::write(&path, line('b')).unwrap();
        files.use_what_is_new();
        assert_eq!(keys.open(&sealed), None);

        for (contents, expected) in
            [("", "no key"), ("# none\n\n", "no key"), (&(line('a') + "\n short "), "line 3 is shorter")]
        {
            let problem = Keys::parse(contents.as_bytes()).map(|_| ()).unwrap_err();
            assert!(problem.contains(expected) && !problem.contains("short "), "{problem}");
        }
        assert!(Keys::parse(line('a').repeat(MAX_KEYS + 1).as_bytes()).is_err());
    }

    #[test]
    fn what_is_sealed_shows_nothing_and_is_opened_whole_or_not_at_all() {
        let keys = RegistryTokenKeys::random().unwrap();
        let contents = b"contents that nobody may see";
        let sealed = keys.seal(contents.to_vec()).unwrap();
        assert_ne!(keys.seal(contents.to_vec()).unwrap(), sealed);
        assert!(!sealed.windows(8).any(|part| contents.windows(8).any(|shown| part == shown)));
        for length in 0..sealed.len() {
            assert_eq!(keys.open(&sealed[..length]), None, "{length}");
            let mut changed = sealed.clone();
            changed[length] ^= 1;
            assert_eq!(keys.open(&changed), None, "{length}");
        }
        assert_eq!(RegistryTokenKeys::random().unwrap().open(&sealed), None);
        assert!(!format!("{keys:?}").contains("contents"));
    }
}
