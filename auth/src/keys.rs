//! The public keys that an issuer's tokens are verified by.
//!
//! A key knows its own algorithm. What a token's header says must equal it and chooses nothing, so a public key can never
//! be taken for a shared secret. Each set belongs to one issuer: a key of one never verifies a token of another.

mod fetched;
mod published;

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::{PublicEncryptingKey, PublicKeyComponents};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ParsedPublicKey,
    RSA_PKCS1_2048_8192_SHA256, VerificationAlgorithm,
};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use rustls_pki_types::pem::{self, SectionKind};
use serde::Deserialize;
use x509_parser::oid_registry::{OID_EC_P256, OID_NIST_EC_P384, OID_NIST_EC_P521};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey as AnyKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use self::fetched::FetchedKeys;
use crate::AuthenticationError;
use crate::files::{FileError, Files, Watched};

pub use self::fetched::FetchKeys;
pub use self::published::{PublishedKeys, PublishedKeysError};

/// How long an RSA key may be.
const RSA_BITS: RangeInclusive<usize> = 2048..=8192;

/// What messages call the keys that are good here.
const OUR_KINDS: &str = "RSA of 2048 to 8192 bits, P-256, P-384 or P-521";

/// The keys of one issuer.
#[derive(Debug)]
pub struct KeySet(Source);

#[derive(Debug)]
enum Source {
    Files(Vec<Watched<Vec<Arc<PublicKey>>>>),
    Fetched(FetchedKeys),
}

impl KeySet {
    /// Reads keys from files, each of them public keys in PEM or a JSON Web Key Set, and again when they change. Keys
    /// of other kinds are skipped. Blocks: this is for the start.
    ///
    /// # Errors
    /// When a file cannot be read, or has no key in it that can be used.
    pub fn from_files<P: AsRef<Path>>(paths: &[P], files: &Files) -> Result<Self, FileError> {
        let watched = paths.iter().map(|path| files.watch(path.as_ref(), parse));
        Ok(Self(Source::Files(watched.collect::<Result<_, _>>()?)))
    }

    /// Fetches a JSON Web Key Set when it is first needed, and again when it gets old or lacks a key that a token names.
    pub fn fetched(fetch: Arc<dyn FetchKeys>) -> Self {
        Self(Source::Fetched(FetchedKeys::new(fetch)))
    }

    /// Those keys that may have signed a token which names `key_id`: those of that name, or all if it names none.
    ///
    /// # Errors
    /// [`AuthenticationError::Unavailable`] when there is no such key, and it could not be asked for.
    pub(crate) async fn named(
        &self,
        key_id: Option<&str>,
    ) -> Result<Vec<Arc<PublicKey>>, AuthenticationError> {
        match &self.0 {
            Source::Files(files) => {
                Ok(files.iter().flat_map(|file| matching(&file.current(), key_id)).collect())
            }
            Source::Fetched(keys) => keys.named(key_id).await,
        }
    }
}

/// What signs a token of a service account; Kubernetes knows no other.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Algorithm {
    Rs256,
    Es256,
    Es384,
    Es512,
}

impl Algorithm {
    const ALL: [Self; 4] = [Self::Rs256, Self::Es256, Self::Es384, Self::Es512];

    fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Es512 => "ES512",
        }
    }

    /// One library does all four: `jsonwebtoken`, which would call this one, has no ES512, and leaves what makes a
    /// verifier safe (the algorithm by the key, duplicate members, required claims) to its caller.
    fn verification(self) -> &'static dyn VerificationAlgorithm {
        match self {
            Self::Rs256 => &RSA_PKCS1_2048_8192_SHA256,
            Self::Es256 => &ECDSA_P256_SHA256_FIXED,
            Self::Es384 => &ECDSA_P384_SHA384_FIXED,
            Self::Es512 => &ECDSA_P521_SHA512_FIXED,
        }
    }
}

/// One key.
#[derive(Debug)]
pub(crate) struct PublicKey {
    id: String,
    algorithm: Algorithm,
    key: ParsedPublicKey,
}

impl PublicKey {
    /// Whether `signature` is of this key over `signed`, by the only algorithm that it is for.
    pub(crate) fn verifies(&self, algorithm: &str, signed: &[u8], signature: &[u8]) -> bool {
        algorithm == self.algorithm.name() && self.key.verify_sig(signed, signature).is_ok()
    }

    /// A key from a `SubjectPublicKeyInfo` in DER, named as Kubernetes names it: by the digest of those very bytes.
    fn from_der(der: &[u8]) -> Option<Self> {
        Algorithm::ALL.into_iter().find_map(|algorithm| {
            let key = ParsedPublicKey::new(algorithm.verification(), der).ok()?;
            let der = key.as_der().ok()?;
            let is_strong = match algorithm {
                Algorithm::Rs256 => is_long_enough(der.as_ref()),
                Algorithm::Es256 | Algorithm::Es384 | Algorithm::Es512 => true,
            };
            let id = BASE64_URL_SAFE_NO_PAD.encode(digest(&SHA256, der.as_ref()));
            is_strong.then_some(Self { id, algorithm, key })
        })
    }

    /// A key from an entry of a JSON Web Key Set; `None` if it is of a kind, or for a use, that is none of ours.
    fn from_jwk(jwk: Jwk) -> Option<Self> {
        if jwk.usage.is_some_and(|usage| usage != "sig") {
            return None;
        }
        let number = |text: &Option<String>| BASE64_URL_SAFE_NO_PAD.decode(text.as_ref()?).ok();
        let (wanted, der) = match (jwk.key_type.as_str(), jwk.curve.as_deref()) {
            ("RSA", _) => {
                let components = PublicKeyComponents { n: number(&jwk.n)?, e: number(&jwk.e)? };
                (Algorithm::Rs256, components.as_der().ok()?.as_ref().to_vec())
            }
            ("EC", Some(curve)) => {
                let (algorithm, coordinate_bytes) = match curve {
                    "P-256" => (Algorithm::Es256, 32),
                    "P-384" => (Algorithm::Es384, 48),
                    "P-521" => (Algorithm::Es512, 66),
                    _ => return None,
                };
                let (x, y) = (number(&jwk.x)?, number(&jwk.y)?);
                if x.len() != coordinate_bytes || y.len() != coordinate_bytes {
                    return None;
                }
                const UNCOMPRESSED: u8 = 4;
                (algorithm, [vec![UNCOMPRESSED], x, y].concat())
            }
            _ => return None,
        };
        let mut key = Self::from_der(&der).filter(|key| key.algorithm == wanted)?;
        if jwk.algorithm.is_some_and(|algorithm| algorithm != key.algorithm.name()) {
            return None;
        }
        if let Some(id) = jwk.key_id {
            key.id = id;
        }
        Some(key)
    }
}

/// An entry of a JSON Web Key Set (RFC 7517). Whatever else stands in it is not looked at.
#[derive(Deserialize)]
struct Jwk {
    #[serde(rename = "kty")]
    key_type: String,
    #[serde(rename = "kid")]
    key_id: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    #[serde(rename = "alg")]
    algorithm: Option<String>,
    #[serde(rename = "crv")]
    curve: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

/// Those of `keys` that are named `key_id`, or all if none is named.
fn matching(keys: &[Arc<PublicKey>], key_id: Option<&str>) -> Vec<Arc<PublicKey>> {
    keys.iter().filter(|key| key_id.is_none_or(|id| id == key.id)).cloned().collect()
}

/// Keys in PEM, or a JSON Web Key Set.
fn parse(contents: &[u8]) -> Result<Vec<Arc<PublicKey>>, String> {
    match contents.trim_ascii_start().first() {
        Some(b'{') => parse_jwks(contents),
        Some(_) | None => parse_pem(contents),
    }
}

/// A key of another kind never spoils the others, which may be newer.
fn parse_pem(mut contents: &[u8]) -> Result<Vec<Arc<PublicKey>>, String> {
    let (mut keys, mut skipped) = (Vec::new(), 0);
    while let Some((kind, der)) = pem::from_buf(&mut contents).map_err(|_| "it is not PEM".to_owned())? {
        match kind {
            SectionKind::PublicKey => match PublicKey::from_der(&der) {
                Some(key) => keys.push(Arc::new(key)),
                None if is_of_another_kind(&der) => skipped += 1,
                None => {
                    let number = keys.len() + skipped + 1;
                    return Err(format!("its public key number {number} cannot be read"));
                }
            },
            SectionKind::RsaPrivateKey | SectionKind::PrivateKey | SectionKind::EcPrivateKey => {
                return Err(
                    "it has a private key, which belongs with the API server alone; give the public one \
                            (`openssl pkey -in KEY -pubout`)"
                        .to_owned(),
                );
            }
            _ => {
                return Err("it has something other than public keys in it (of a certificate, \
                            `openssl x509 -in CERTIFICATE -noout -pubkey` prints the key)"
                    .to_owned());
            }
        }
    }
    match (keys.is_empty(), skipped) {
        (true, 0) => return Err("it has no `PUBLIC KEY` in PEM and is no JSON Web Key Set".to_owned()),
        (true, _) => return Err(format!("none of its public keys is {OUR_KINDS}")),
        (false, 0) => {}
        (false, _) => tracing::warn!(skipped, "public keys that are not {OUR_KINDS} are skipped"),
    }
    Ok(keys)
}

/// Whether it is a whole key, and one of another algorithm, curve or length than those of ours.
fn is_of_another_kind(der: &[u8]) -> bool {
    let Ok(([], key)) = SubjectPublicKeyInfo::from_der(der) else { return false };
    match key.parsed() {
        Ok(AnyKey::RSA(rsa)) => !RSA_BITS.contains(&rsa.key_size()),
        Ok(AnyKey::EC(_)) => {
            let curve = key.algorithm.parameters.as_ref().and_then(|curve| curve.as_oid().ok());
            let ours = [OID_EC_P256, OID_NIST_EC_P384, OID_NIST_EC_P521];
            curve.is_none_or(|curve| !ours.contains(&curve))
        }
        Ok(_) => true,
        Err(_) => false,
    }
}

/// One entry that is not understood never spoils the others: Kubernetes adds kinds of keys.
fn parse_jwks(contents: &[u8]) -> Result<Vec<Arc<PublicKey>>, String> {
    #[derive(Deserialize)]
    struct Jwks {
        keys: Vec<serde_json::Value>,
    }
    let jwks: Jwks =
        serde_json::from_slice(contents).map_err(|_| "it is not a JSON Web Key Set".to_owned())?;
    let entries = jwks.keys.into_iter().filter_map(|entry| serde_json::from_value(entry).ok());
    let keys: Vec<_> = entries.filter_map(PublicKey::from_jwk).map(Arc::new).collect();
    if keys.is_empty() {
        return Err("the JSON Web Key Set has no RSA, P-256, P-384 or P-521 key for signatures".to_owned());
    }
    Ok(keys)
}

/// Shorter keys would load, and then never verify anything.
fn is_long_enough(der: &[u8]) -> bool {
    PublicEncryptingKey::from_der(der).is_ok_and(|key| RSA_BITS.contains(&key.key_size_bits()))
}

#[cfg(test)]
pub(crate) mod tests;
