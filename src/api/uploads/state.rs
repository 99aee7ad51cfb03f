//! The `_state` parameter of an upload's URL, in CNCF distribution's form, so that an upload which began behind one
//! server can be carried on behind the other while a registry is replaced.
//!
//! Wharf itself needs no state: what there is to know about an upload lies in the store. So a state is given out only
//! if `http.secret` is configured, and one that a client brings is checked only then.

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use storage::{RepositoryName, UploadId};

/// Makes and checks states with `http.secret`: base64 of a MAC and of the JSON that it covers.
#[derive(Clone)]
pub struct StateKey(Hmac<Sha256>);

/// Why a state is not accepted.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum StateError {
    /// It is not base64, or too short, or what it holds is not what it should be.
    #[error("the upload's state is malformed")]
    Malformed,
    /// It was made with another secret, or changed.
    #[error("the upload's state was made with another http.secret")]
    Forged,
    /// It was given out for another upload.
    #[error("the upload's state belongs to another upload")]
    OtherUpload,
}

/// What a state says, in the words and the order of CNCF distribution.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "PascalCase")]
struct State {
    name: String,
    #[serde(rename = "UUID")]
    uuid: String,
    offset: u64,
    started_at: String,
}

impl StateKey {
    const MAC_BYTES: usize = 32;

    /// Takes the bytes of `http.secret`.
    pub fn new(secret: &[u8]) -> Self {
        Self(Hmac::new_from_slice(secret).expect("HMAC takes a key of any size"))
    }

    /// Makes the state of an upload of which `offset` bytes are kept. It may hold `=`, which a URL has to escape.
    pub fn issue(&self, repository: &RepositoryName, id: UploadId, offset: u64) -> String {
        let state = State {
            name: repository.to_string(),
            uuid: id.to_string(),
            offset,
            // Distribution wants a time here and never looks at it: this is how it writes none.
            started_at: "0001-01-01T00:00:00Z".to_owned(),
        };
        let json = serde_json::to_vec(&state).expect("text and numbers always become JSON");
        let mac = self.0.clone().chain_update(&json).finalize();
        BASE64_URL_SAFE.encode([&mac.into_bytes()[..], &json].concat())
    }

    /// Checks a state that a client brings along with an upload's URL, and returns the offset it was made for.
    ///
    /// # Errors
    /// If it is not one that was given out for this upload.
    pub fn check(&self, state: &str, repository: &RepositoryName, id: UploadId) -> Result<u64, StateError> {
        let bytes = BASE64_URL_SAFE.decode(state).map_err(|_| StateError::Malformed)?;
        let (mac, json) = bytes.split_at_checked(Self::MAC_BYTES).ok_or(StateError::Malformed)?;
        self.0.clone().chain_update(json).verify_slice(mac).map_err(|_| StateError::Forged)?;
        let state: State = serde_json::from_slice(json).map_err(|_| StateError::Malformed)?;
        let same_upload = state.name == repository.as_str() && state.uuid == id.to_string();
        if same_upload { Ok(state.offset) } else { Err(StateError::OtherUpload) }
    }
}

impl fmt::Debug for StateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StateKey([redacted])")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Made by the rules of distribution's `hmac.go`, with Python: the secret is `asecretforlocaldevelopment`.
    const FROM_DISTRIBUTION: &str = "zestNaB8daKUksVP4wtdjKmzmJ0hBX6BcvvlypyORil7Ik5hbWUiOiJ0ZWFtL2FwcCIsIlVVSUQiOiIxMjNlNDU2Ny1lODliLTQyZDMtYTQ1Ni00MjY2MTQxNzQwMDAiLCJPZmZzZXQiOjEyMzQsIlN0YXJ0ZWRBdCI6IjIwMjQtMDUtMDZUMDc6MDg6MDkuMTIzNDU2Nzg5WiJ9";

    fn key() -> StateKey {
        StateKey::new(b"asecretforlocaldevelopment")
    }

    fn repository() -> RepositoryName {
        "team/app".parse().unwrap()
    }

    fn id() -> UploadId {
        "123e4567-e89b-42d3-a456-426614174000".parse().unwrap()
    }

    #[test]
    fn an_upload_of_distribution_is_carried_on() {
        assert_eq!(key().check(FROM_DISTRIBUTION, &repository(), id()), Ok(1234));
    }

    #[test]
    fn what_is_issued_has_the_form_of_distribution() {
        let state = BASE64_URL_SAFE.decode(key().issue(&repository(), id(), 7)).unwrap();
        assert_eq!(
            str::from_utf8(&state[StateKey::MAC_BYTES..]).unwrap(),
            r#"{"Name":"team/app","UUID":"123e4567-e89b-42d3-a456-426614174000","Offset":7,"StartedAt":"0001-01-01T00:00:00Z"}"#
        );
    }

    #[test]
    fn a_state_serves_no_other_upload_and_no_other_secret() {
        let state = key().issue(&repository(), id(), 7);
        let other_repository = "team/other".parse().unwrap();
        assert_eq!(key().check(&state, &other_repository, id()), Err(StateError::OtherUpload));
        assert_eq!(key().check(&state, &repository(), UploadId::random()), Err(StateError::OtherUpload));
        assert_eq!(StateKey::new(b"other").check(&state, &repository(), id()), Err(StateError::Forged));
    }

    #[test]
    fn what_is_no_state_is_refused() {
        let key = key();
        let short = BASE64_URL_SAFE.encode([0; 31]);
        for state in ["", "x", "####", &short] {
            assert_eq!(key.check(state, &repository(), id()), Err(StateError::Malformed), "{state}");
        }
        let mac = key.0.clone().chain_update(b"{}").finalize().into_bytes();
        let no_fields = BASE64_URL_SAFE.encode([&mac[..], b"{}"].concat());
        assert_eq!(key.check(&no_fields, &repository(), id()), Err(StateError::Malformed));
        assert!(matches!(
            key.check(&BASE64_URL_SAFE.encode(mac), &repository(), id()),
            Err(StateError::Forged)
        ));
    }

    #[test]
    fn the_key_is_not_printed() {
        assert_eq!(format!("{:?}", key()), "StateKey([redacted])");
    }

    proptest! {
        #[test]
        fn what_is_issued_is_accepted(offset: u64, secret: Vec<u8>) {
            let key = StateKey::new(&secret);
            prop_assert_eq!(key.check(&key.issue(&repository(), id(), offset), &repository(), id()), Ok(offset));
        }

        #[test]
        fn whatever_is_changed_is_noticed(at: prop::sample::Index, bit in 0_u8..8) {
            let mut state = BASE64_URL_SAFE.decode(key().issue(&repository(), id(), 7)).unwrap();
            let at = at.index(state.len());
            state[at] ^= 1_u8 << bit;
            prop_assert_eq!(key().check(&BASE64_URL_SAFE.encode(state), &repository(), id()), Err(StateError::Forged));
        }
    }
}
