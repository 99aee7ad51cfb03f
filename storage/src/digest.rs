//! Content addresses: algorithms, digests, and the hashing that makes them.
//!
//! A hash under way can be written down and carried on elsewhere ([`HashState`]). The form is that of Go's
//! `encoding.BinaryMarshaler`, because that is what CNCF distribution leaves in `_uploads/<uuid>/hashstates`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::digest::common::hazmat::{SerializableState, SerializedState};
use sha2::{Digest as _, Sha256, Sha512};

/// A hash algorithm that names content.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Algorithm {
    /// `sha256`, which every client knows.
    Sha256,
    /// `sha512`, the other one that the image specification registers.
    Sha512,
}

impl Algorithm {
    /// Every algorithm, in the order of their names.
    pub const ALL: [Self; 2] = [Self::Sha256, Self::Sha512];

    /// Returns the name as it stands in a digest, such as `sha256`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Algorithm {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        if let Some(known) = Self::ALL.into_iter().find(|known| known.as_str() == text) {
            return Ok(known);
        }
        let well_formed = text.split(['+', '.', '_', '-']).all(|part| {
            !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        });
        if !well_formed {
            return Err(DigestError::Malformed("an algorithm is written in lower-case letters and digits"));
        }
        Err(DigestError::UnsupportedAlgorithm(text.chars().take(64).collect()))
    }
}

/// A well-formed content address such as `sha256:9f86d0…`. It does not promise that such content exists.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Digest {
    /// The SHA-256 of the content.
    Sha256([u8; 32]),
    /// The SHA-512 of the content.
    Sha512([u8; 64]),
}

/// Why a text is not a [`Digest`].
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum DigestError {
    /// The text does not follow the grammar, or its hash has the wrong length for its algorithm.
    #[error("malformed digest: {0}")]
    Malformed(&'static str),
    /// The text may be a digest, but of an algorithm that is not served here.
    #[error("unsupported digest algorithm {0:?}: use sha256 or sha512")]
    UnsupportedAlgorithm(String),
}

impl Digest {
    /// Hashes bytes that are in memory.
    pub fn of(algorithm: Algorithm, content: &[u8]) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::Sha256(Sha256::digest(content).into()),
            Algorithm::Sha512 => Self::Sha512(Sha512::digest(content).into()),
        }
    }

    /// Returns the algorithm that the digest was made with.
    pub const fn algorithm(&self) -> Algorithm {
        match self {
            Self::Sha256(_) => Algorithm::Sha256,
            Self::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// Returns the part after the colon, in lower-case hexadecimal.
    pub fn hex(&self) -> impl fmt::Display + use<> {
        Text::new("", self.as_bytes())
    }

    /// Returns the hash itself.
    pub const fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Sha256(hash) => hash,
            Self::Sha512(hash) => hash,
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = match self {
            Self::Sha256(_) => "sha256:",
            Self::Sha512(_) => "sha512:",
        };
        Text::new(prefix, self.as_bytes()).fmt(f)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (algorithm, hex) =
            text.split_once(':').ok_or(DigestError::Malformed("it is written <algorithm>:<hex>"))?;
        match algorithm.parse()? {
            Algorithm::Sha256 => parse_hex(hex)
                .map(Self::Sha256)
                .ok_or(DigestError::Malformed("sha256 takes 64 lower-case hexadecimal digits")),
            Algorithm::Sha512 => parse_hex(hex)
                .map(Self::Sha512)
                .ok_or(DigestError::Malformed("sha512 takes 128 lower-case hexadecimal digits")),
        }
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Digest;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a digest such as sha256:9f86d0…")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Digest, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

/// Hashes a stream piece by piece, by either algorithm.
#[derive(Clone)]
pub struct Hasher {
    inner: Inner,
    bytes: u64,
}

#[derive(Clone)]
enum Inner {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hasher {
    /// Begins a hash over nothing yet.
    pub fn new(algorithm: Algorithm) -> Self {
        let inner = match algorithm {
            Algorithm::Sha256 => Inner::Sha256(Sha256::new()),
            Algorithm::Sha512 => Inner::Sha512(Sha512::new()),
        };
        Self { inner, bytes: 0 }
    }

    /// Takes in the next bytes of the stream.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.inner {
            Inner::Sha256(hash) => hash.update(bytes),
            Inner::Sha512(hash) => hash.update(bytes),
        }
        self.bytes += bytes.len() as u64;
    }

    /// Ends the hash.
    pub fn finish(self) -> Digest {
        match self.inner {
            Inner::Sha256(hash) => Digest::Sha256(hash.finalize().into()),
            Inner::Sha512(hash) => Digest::Sha512(hash.finalize().into()),
        }
    }

    /// Returns how many bytes were taken in, those before a resumption included.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns the algorithm that this hash is made with.
    pub const fn algorithm(&self) -> Algorithm {
        match self.inner {
            Inner::Sha256(_) => Algorithm::Sha256,
            Inner::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// Writes down where the hash stands, so that another process can carry it on.
    pub fn state(&self) -> HashState {
        let algorithm = self.algorithm();
        let bytes = match &self.inner {
            Inner::Sha256(hash) => Form::of(algorithm).write(&hash.serialize(), self.bytes),
            Inner::Sha512(hash) => Form::of(algorithm).write(&hash.serialize(), self.bytes),
        };
        HashState { algorithm, offset: self.bytes, bytes }
    }

    /// Carries on where `state` was written down.
    pub fn resume(state: &HashState) -> Self {
        let form = Form::of(state.algorithm);
        let inner = match state.algorithm {
            Algorithm::Sha256 => Inner::Sha256(form.read(&state.bytes, state.offset)),
            Algorithm::Sha512 => Inner::Sha512(form.read(&state.bytes, state.offset)),
        };
        Self { inner, bytes: state.offset }
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hasher").field("algorithm", &self.algorithm()).field("bytes", &self.bytes).finish()
    }
}

/// Where a hash stood when it was written down: the bytes that Go's `MarshalBinary` writes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HashState {
    algorithm: Algorithm,
    offset: u64,
    /// Of exactly the length of the algorithm's form: magic, chaining words, pending block, offset.
    bytes: Vec<u8>,
}

/// Why bytes are not a [`HashState`].
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum HashStateError {
    /// The first bytes are not those of a SHA-256 or SHA-512 state.
    #[error("not the state of a sha256 or sha512 hash")]
    Magic,
    /// The state is cut short or too long.
    #[error("a {algorithm} state of {bytes} bytes instead of {}", Form::of(*.algorithm).len())]
    Size {
        /// The algorithm that the first bytes name.
        algorithm: Algorithm,
        /// How many bytes were given.
        bytes: usize,
    },
    /// The state claims more bytes than any stream can have.
    #[error("a state that claims {0} bytes, more than any content has")]
    Offset(u64),
}

impl HashState {
    /// More than any store holds, and so low that counting the bits of what follows cannot overflow.
    const MAX_OFFSET: u64 = 1 << 60;

    /// Reads a state. Bytes of the block buffer that do not count are ignored: old Go leaves stale ones there.
    pub fn parse(bytes: &[u8]) -> Result<Self, HashStateError> {
        let algorithm = Algorithm::ALL
            .into_iter()
            .find(|algorithm| bytes.starts_with(&Form::of(*algorithm).magic))
            .ok_or(HashStateError::Magic)?;
        let form = Form::of(algorithm);
        let size = HashStateError::Size { algorithm, bytes: bytes.len() };
        let (_, offset) = bytes.split_last_chunk().ok_or(size)?;
        if bytes.len() != form.len() {
            return Err(size);
        }
        let offset = u64::from_be_bytes(*offset);
        if offset > Self::MAX_OFFSET {
            return Err(HashStateError::Offset(offset));
        }
        let mut bytes = bytes.to_vec();
        bytes[form.block_start() + usize::from(form.pending(offset))..form.len() - 8].fill(0);
        Ok(Self { algorithm, offset, bytes })
    }

    /// Returns the bytes to write down.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns how many bytes had been hashed.
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// Returns the algorithm of the hash.
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

/// How Go writes the state of one algorithm, and how that relates to what `sha2` serialises:
///
/// - Go, big-endian: magic · 8 words · block buffer of 16 words · `u64` of bytes hashed;
/// - sha2, little-endian: 8 words · blocks hashed, in two words · `u8` of pending bytes · buffer less one byte.
#[derive(Clone, Copy)]
struct Form {
    magic: [u8; 4],
    word: usize,
    block: u8,
}

impl Form {
    const fn of(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self { magic: *b"sha\x03", word: 4, block: 64 },
            Algorithm::Sha512 => Self { magic: *b"sha\x07", word: 8, block: 128 },
        }
    }

    const fn len(self) -> usize {
        self.block_start() + self.block as usize + 8
    }

    const fn block_start(self) -> usize {
        4 + 8 * self.word
    }

    /// How much of the block buffer counts. Both block sizes divide 256, so the last byte of the offset tells.
    const fn pending(self, offset: u64) -> u8 {
        offset.to_le_bytes()[0] % self.block
    }

    fn write(self, sha2: &[u8], offset: u64) -> Vec<u8> {
        let (words, rest) = sha2.split_at(8 * self.word);
        let block = &rest[2 * self.word + 1..];
        let mut go = Vec::with_capacity(self.len());
        go.extend_from_slice(&self.magic);
        for word in words.chunks_exact(self.word) {
            go.extend(word.iter().rev());
        }
        go.extend_from_slice(&block[..usize::from(self.pending(offset))]);
        go.resize(self.len() - 8, 0);
        go.extend_from_slice(&offset.to_be_bytes());
        go
    }

    fn read<H: SerializableState>(self, go: &[u8], offset: u64) -> H {
        let pending = usize::from(self.pending(offset));
        let blocks = u128::from(offset) / u128::from(self.block);
        let mut sha2 = SerializedState::<H>::default();
        let (words, rest) = sha2.split_at_mut(8 * self.word);
        for (to, from) in words.chunks_exact_mut(self.word).zip(go[4..].chunks_exact(self.word)) {
            to.copy_from_slice(from);
            to.reverse();
        }
        let (count, rest) = rest.split_at_mut(2 * self.word);
        count.copy_from_slice(&blocks.to_le_bytes()[..2 * self.word]);
        rest[0] = self.pending(offset);
        rest[1..=pending].copy_from_slice(&go[self.block_start()..][..pending]);
        H::deserialize(&sha2).expect("the pending count is below the block size and the rest is zero")
    }
}

/// A prefix and some bytes in hexadecimal, made on the stack.
struct Text {
    text: [u8; Self::MAX],
    len: usize,
}

impl Text {
    const MAX: usize = "sha512:".len() + 128;

    fn new(prefix: &str, bytes: &[u8]) -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0; Self::MAX];
        let len = prefix.len() + 2 * bytes.len();
        text[..prefix.len()].copy_from_slice(prefix.as_bytes());
        for (pair, byte) in text[prefix.len()..len].chunks_exact_mut(2).zip(bytes) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        Self { text, len }
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(str::from_utf8(&self.text[..self.len]).map_err(|_| fmt::Error)?)
    }
}

/// Reads exactly as many bytes as fit, written in lower-case hexadecimal.
fn parse_hex<const N: usize>(hex: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, []) = hex.as_bytes().as_chunks::<2>() else { return None };
    let pairs: &[[u8; 2]; N] = pairs.try_into().ok()?;
    let mut bytes = [0; N];
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn digests_are_what_everyone_else_computes() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of(Algorithm::Sha256, b"").to_string(), empty);
        let abc = "sha512:ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
                   2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f";
        assert_eq!(Digest::of(Algorithm::Sha512, b"abc").to_string(), abc);
        for text in [empty, abc] {
            let digest: Digest = text.parse().unwrap();
            assert_eq!(digest.to_string(), text);
            assert_eq!(format!("{}:{}", digest.algorithm(), digest.hex()), text);
            let json = format!("\"{text}\"");
            assert_eq!(serde_json::to_string(&digest).unwrap(), json);
            assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), digest);
        }
    }

    #[test]
    fn only_lower_case_hex_of_the_exact_length_is_a_digest() {
        let hex = "a".repeat(64);
        for bad in [
            String::new(),
            "sha256".to_owned(),
            "sha256:".to_owned(),
            hex.clone(),
            format!("sha256:{}", &hex[1..]),
            format!("sha256:{hex}a"),
            format!("sha512:{hex}"),
            format!("sha256:{}", hex.to_uppercase()),
            format!("sha256:{}g", &hex[1..]),
            format!("sha256:{hex}\n"),
            format!("sha256::{}", &hex[1..]),
            format!(":{hex}"),
            format!("SHA256:{hex}"),
            format!("sha256 :{hex}"),
            format!("sha256+:{hex}"),
            "sha256:baddigeststring".to_owned(),
            format!("sha256:{}é", &hex[2..]),
        ] {
            assert!(matches!(bad.parse::<Digest>(), Err(DigestError::Malformed(_))), "{bad:?}");
        }
        for unknown in ["md5", "blake3", "sha384", "sha256+b64", "multihash.a_b-c"] {
            let error = DigestError::UnsupportedAlgorithm(unknown.to_owned());
            assert_eq!(format!("{unknown}:{hex}").parse::<Digest>(), Err(error));
        }
    }

    #[test]
    fn digests_come_in_the_order_of_their_text() {
        let mut digests: Vec<_> = (0..50u8)
            .flat_map(|byte| Algorithm::ALL.map(|algorithm| Digest::of(algorithm, &[byte])))
            .collect();
        digests.sort();
        assert!(digests.is_sorted_by_key(Digest::to_string));
    }

    /// The content that the fixtures were made of.
    fn content(length: usize) -> Vec<u8> {
        (0..=u8::MAX).cycle().take(length).collect()
    }

    fn unhex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }

    #[test]
    fn a_hash_begun_by_go_is_carried_on_and_the_reverse() {
        let fixtures = include_str!("digest/go_states.txt").lines().filter(|line| !line.starts_with('#'));
        let mut count = 0;
        for line in fixtures {
            let [algorithm, length, state, digest] = line.split(' ').collect::<Vec<_>>().try_into().unwrap();
            let state = unhex(state);

            let mut ours = Hasher::new(algorithm.parse().unwrap());
            ours.update(&content(length.parse().unwrap()));
            assert_eq!(ours.state().as_bytes(), state);

            let mut resumed = Hasher::resume(&HashState::parse(&state).unwrap());
            assert_eq!(resumed.bytes().to_string(), length);
            resumed.update(b"wharf");
            assert_eq!(resumed.finish().to_string(), digest);
            count += 1;
        }
        assert_eq!(count, 12);
    }

    #[test]
    fn stale_bytes_in_the_block_buffer_do_not_count() {
        for algorithm in Algorithm::ALL {
            let mut hasher = Hasher::new(algorithm);
            hasher.update(&content(150));
            let clean = hasher.state();
            let mut stale = clean.as_bytes().to_vec();
            let last_of_buffer = stale.len() - 9;
            stale[last_of_buffer] = 0xff;
            assert_eq!(HashState::parse(&stale).unwrap(), clean);
        }
    }

    #[test]
    fn a_state_that_is_none_is_refused() {
        let good = Hasher::new(Algorithm::Sha256).state();
        let good = good.as_bytes();
        let size = |bytes| HashStateError::Size { algorithm: Algorithm::Sha256, bytes };
        assert_eq!(HashState::parse(b""), Err(HashStateError::Magic));
        assert_eq!(HashState::parse(b"sha\x02"), Err(HashStateError::Magic));
        assert_eq!(HashState::parse(b"sha\x03"), Err(size(4)));
        assert_eq!(HashState::parse(&good[..107]), Err(size(107)));
        assert_eq!(HashState::parse(&[good, b"x"].concat()), Err(size(109)));
        assert_eq!(
            HashState::parse(&[&good[..100], &[0xff; 8]].concat()),
            Err(HashStateError::Offset(u64::MAX))
        );
        assert_eq!(size(4).to_string(), "a sha256 state of 4 bytes instead of 108");
    }

    fn any_digest() -> impl Strategy<Value = Digest> {
        prop_oneof![any::<[u8; 32]>().prop_map(Digest::Sha256), any::<[u8; 64]>().prop_map(Digest::Sha512)]
    }

    proptest! {
        #[test]
        fn a_digest_survives_its_text(digest in any_digest()) {
            prop_assert_eq!(digest.to_string().parse(), Ok(digest));
        }

        #[test]
        fn no_text_makes_it_panic(text in "(sha(256|512|1))?[:+]?\\PC{0,140}") {
            if let Ok(digest) = text.parse::<Digest>() {
                prop_assert_eq!(digest.to_string(), text);
            }
        }

        #[test]
        fn a_hash_may_be_put_down_anywhere(
            content in proptest::collection::vec(any::<u8>(), 0..600),
            at in any::<prop::sample::Index>(),
        ) {
            let (before, after) = content.split_at(at.index(content.len() + 1));
            for algorithm in Algorithm::ALL {
                let mut first = Hasher::new(algorithm);
                first.update(before);
                let state = HashState::parse(first.state().as_bytes()).unwrap();
                prop_assert_eq!(state.offset(), before.len() as u64);
                let mut second = Hasher::resume(&state);
                second.update(after);
                prop_assert_eq!(second.finish(), Digest::of(algorithm, &content));
            }
        }

        /// Whatever a file claims to be the state of a hash can at worst give a wrong digest.
        #[test]
        fn no_state_makes_it_panic(sha256: bool, mut bytes in proptest::collection::vec(any::<u8>(), 204)) {
            bytes.truncate(if sha256 { 108 } else { 204 });
            bytes[..4].copy_from_slice(if sha256 { b"sha\x03" } else { b"sha\x07" });
            if let Ok(state) = HashState::parse(&bytes) {
                let mut hasher = Hasher::resume(&state);
                prop_assert_eq!(&hasher.state(), &state);
                hasher.update(b"more");
                hasher.finish();
            }
            let offset = bytes.len() - 8;
            bytes[offset] = 0;
            prop_assert!(HashState::parse(&bytes).is_ok());
        }
    }
}
