//! Digests survive their text; the state of a hash, whatever it claims, can be carried on.
#![no_main]

use libfuzzer_sys::fuzz_target;
use storage::{Digest, HashState, Hasher};

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = str::from_utf8(data)
        && let Ok(digest) = text.parse::<Digest>()
    {
        assert_eq!(digest.to_string(), text);
    }
    if let Ok(state) = HashState::parse(data) {
        let mut hasher = Hasher::resume(&state);
        assert_eq!(hasher.state(), state);
        hasher.update(data);
        assert_eq!(hasher.bytes(), state.offset() + data.len() as u64);
        hasher.finish();
    }
});
