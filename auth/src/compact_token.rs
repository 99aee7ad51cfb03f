//! A JSON Web Token as it is written. It is taken apart strictly, so that no two readers can see different things in it;
//! nothing that it says is believed yet.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use crate::strict_json;

/// The longest token that is looked at, in bytes.
pub const MAX_TOKEN_BYTES: usize = 16 << 10;

/// The longest name of a key; an external signer of Kubernetes may choose up to this many bytes.
const MAX_KEY_ID_BYTES: usize = 1024;

/// Why a text is not a JSON Web Token that can be looked at.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum MalformedToken {
    /// It is longer than [`MAX_TOKEN_BYTES`].
    #[error("the token is longer than {} KiB", MAX_TOKEN_BYTES >> 10)]
    TooLong,
    /// It is not header, claims and signature with dots between.
    #[error("the token does not have three parts")]
    Parts,
    /// A part is not base64url, is padded, or has bits that its bytes do not need.
    #[error("the token is not in canonical base64url")]
    Base64,
    /// The header or the claims are not one JSON object, or say something twice.
    #[error("the token's header or claims are not a JSON object without duplicate members")]
    Json,
    /// The header names no algorithm, or something in it has the wrong type.
    #[error("the token's header is not valid")]
    Header,
    /// The header asks for something that must be understood; nothing is.
    #[error("the token's header has critical extensions")]
    Critical,
}

/// The parts of a token.
#[derive(Debug)]
pub(crate) struct CompactToken<'a> {
    /// What the header calls the algorithm. It chooses nothing: it must be the one of the key.
    pub(crate) algorithm: String,
    /// Which key the header names. Keys, or where to find them, that stand in the header are not even read
    /// (`jwk`, `jku`, `x5c`, `x5u`): whoever wrote the token wrote them.
    pub(crate) key_id: Option<String>,
    pub(crate) claims: Map<String, Value>,
    /// What the signature covers.
    pub(crate) signed: &'a [u8],
    pub(crate) signature: Vec<u8>,
}

impl<'a> CompactToken<'a> {
    /// Whether `text` means to be a JSON Web Token: its first part begins with `{"`. No password is asked to avoid that.
    pub(crate) fn is_meant_by(text: &str) -> bool {
        text.starts_with("eyJ") && text.contains('.')
    }

    pub(crate) fn parse(text: &'a str) -> Result<Self, MalformedToken> {
        if text.len() > MAX_TOKEN_BYTES {
            return Err(MalformedToken::TooLong);
        }
        let (signed, signature) = text.rsplit_once('.').ok_or(MalformedToken::Parts)?;
        let (header, claims) = signed.split_once('.').ok_or(MalformedToken::Parts)?;
        if claims.contains('.') {
            return Err(MalformedToken::Parts);
        }
        let mut header = object(header)?;
        if header.contains_key("crit") {
            return Err(MalformedToken::Critical);
        }
        let Some(Value::String(algorithm)) = header.remove("alg") else {
            return Err(MalformedToken::Header);
        };
        let key_id = match header.remove("kid") {
            None => None,
            Some(Value::String(id)) if id.len() <= MAX_KEY_ID_BYTES => Some(id),
            Some(_) => return Err(MalformedToken::Header),
        };
        let (claims, signature) = (object(claims)?, decode(signature)?);
        Ok(Self { algorithm, key_id, claims, signed: signed.as_bytes(), signature })
    }

    /// Who says that they made it.
    pub(crate) fn issuer(&self) -> Option<&str> {
        self.claims.get("iss")?.as_str()
    }
}

fn object(part: &str) -> Result<Map<String, Value>, MalformedToken> {
    strict_json::object(&decode(part)?).ok_or(MalformedToken::Json)
}

fn decode(part: &str) -> Result<Vec<u8>, MalformedToken> {
    BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|_| MalformedToken::Base64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(text: impl AsRef<[u8]>) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(text)
    }

    #[test]
    fn a_token_has_one_reading_or_none() {
        let (header, claims, signature) = (encoded(r#"{"alg":"RS256"}"#), encoded("{}"), encoded("abcd"));
        let of_header = |header: &str| format!("{}.{claims}.{signature}", encoded(header));
        let of_claims = |claims: &str| format!("{header}.{}.{signature}", encoded(claims));
        // "abcd" is `YWJjZA`: its last character has four bits that mean nothing.
        let loose = format!("{header}.{claims}.YWJjZB");
        let nested = "[".repeat(4000) + &"]".repeat(4000);
        let deep = format!(r#"{{"iss":{nested}}}"#);
        use MalformedToken::{Base64, Critical, Header, Json, Parts, TooLong};
        let cases = [
            (format!("{header}.{claims}.{signature}"), Ok(())),
            (format!("{header}.{claims}."), Ok(())),
            (format!("{header}.{claims}"), Err(Parts)),
            (format!("{header}.{claims}.{signature}.{signature}"), Err(Parts)),
            (header.clone(), Err(Parts)),
            (String::new(), Err(Parts)),
            (format!("{header}.{claims}.{signature}=="), Err(Base64)),
            (format!("{header}.{claims}.{signature}\n"), Err(Base64)),
            (format!(" {header}.{claims}.{signature}"), Err(Base64)),
            (format!("{header}.{claims}.ab+/"), Err(Base64)),
            (format!("{header}.{claims}.a"), Err(Base64)),
            (loose, Err(Base64)),
            (format!("{header}.{claims}.{}", "A".repeat(MAX_TOKEN_BYTES)), Err(TooLong)),
            (of_header("{}"), Err(Header)),
            (of_header(r#"{"alg":1}"#), Err(Header)),
            (of_header(r#"{"alg":"RS256","kid":7}"#), Err(Header)),
            (of_header(r#"{"alg":"RS256","kid":null}"#), Err(Header)),
            (of_header(&format!(r#"{{"alg":"RS256","kid":"{}"}}"#, "k".repeat(1025))), Err(Header)),
            (of_header(r#"{"alg":"RS256","crit":["exp"]}"#), Err(Critical)),
            (of_header(r#"{"alg":"RS256","alg":"ES256"}"#), Err(Json)),
            (of_header(r#"{"alg":"RS256","\u0061lg":"ES256"}"#), Err(Json)),
            (of_header(r#"["alg"]"#), Err(Json)),
            (of_header(r#"{"alg":"RS256"}{}"#), Err(Json)),
            (of_header("\u{feff}{\"alg\":\"RS256\"}"), Err(Json)),
            (of_claims(r#"{"iss":"a","iss":"b"}"#), Err(Json)),
            (of_claims(r#"{"kubernetes.io":{"namespace":"a","namespace":"b"}}"#), Err(Json)),
            (of_claims(r#"{"a":[{"b":1,"b":1}]}"#), Err(Json)),
            (of_claims("null"), Err(Json)),
            (of_claims(""), Err(Json)),
            (of_claims(&deep), Err(Json)),
            (format!("{header}.{}.{signature}", encoded(b"{\"iss\":\"\xff\"}")), Err(Json)),
        ];
        for (text, expected) in cases {
            assert_eq!(CompactToken::parse(&text).map(|_| ()), expected, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_is_too_odd_to_be_taken_apart(text in ".{0,200}") {
            let _ = CompactToken::parse(&text);
        }

        #[test]
        fn what_is_parsed_is_what_was_written(header: Vec<u8>, claims: Vec<u8>, signature: Vec<u8>) {
            let text = [&header, &claims, &signature].map(encoded).join(".");
            if let Ok(token) = CompactToken::parse(&text) {
                assert_eq!(token.signature, signature);
                assert_eq!(token.signed.len() + 1 + encoded(&signature).len(), text.len());
            }
        }
    }
}
