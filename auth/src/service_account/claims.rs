//! What a token of a service account says, once its signature has been verified.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::{Account, LEGACY_ISSUER, TokenError};
use crate::Identity;

/// The claims that are registered for every JSON Web Token (RFC 7519). None of them is `null`.
#[derive(Debug, Deserialize)]
pub(super) struct Claims {
    #[serde(rename = "iss")]
    issuer: String,
    #[serde(rename = "sub")]
    subject: String,
    #[serde(rename = "aud", default, deserialize_with = "one_or_several")]
    pub(super) audiences: Vec<String>,
    #[serde(rename = "exp", default, deserialize_with = "time")]
    pub(super) expires: Option<SystemTime>,
    #[serde(rename = "nbf", default, deserialize_with = "time")]
    pub(super) not_before: Option<SystemTime>,
    #[serde(rename = "iat", default, deserialize_with = "time")]
    pub(super) issued: Option<SystemTime>,
    #[serde(rename = "jti", default, deserialize_with = "text")]
    id: Option<String>,
}

impl Claims {
    /// Reads the claims. Only a token of [`LEGACY_ISSUER`] may do without audience, end and beginning.
    pub(super) fn read(claims: &Map<String, Value>) -> Result<Self, TokenError> {
        let claims: Self = decode(claims)?;
        let is_bound = !claims.audiences.is_empty() && claims.expires.is_some() && claims.issued.is_some();
        if is_bound || claims.issuer == LEGACY_ISSUER { Ok(claims) } else { Err(TokenError::Claims) }
    }
}

/// The service account that a token is for, and what it is bound to.
#[derive(Debug)]
pub(super) struct Subject {
    namespace: String,
    account: Reference,
    extra: BTreeMap<String, Vec<String>>,
}

impl Subject {
    pub(super) fn read(all: &Map<String, Value>, claims: &Claims) -> Result<Self, TokenError> {
        let subject = if claims.issuer == LEGACY_ISSUER {
            Self::legacy(decode(all)?)?
        } else {
            Self::bound(decode::<BoundClaims>(all)?.kubernetes, claims.id.as_deref())
        };
        let Reference { name, uid } = &subject.account;
        if !is_name(&subject.namespace, 63) || !is_name(name, 253) || uid.is_empty() {
            return Err(TokenError::Claims);
        }
        if claims.subject != subject.user() {
            return Err(TokenError::Subject);
        }
        Ok(subject)
    }

    fn legacy(claims: LegacyClaims) -> Result<Self, TokenError> {
        if claims.secret.is_empty() {
            return Err(TokenError::Claims);
        }
        let account = Reference { name: claims.name, uid: claims.uid };
        Ok(Self { namespace: claims.namespace, account, extra: BTreeMap::new() })
    }

    fn bound(claims: Bound, id: Option<&str>) -> Self {
        let mut extra = BTreeMap::new();
        let mut say = |key: &str, value: String| {
            if !value.is_empty() {
                extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value]);
            }
        };
        if let Some(id) = id.filter(|id| !id.is_empty()) {
            say("credential-id", format!("JTI={id}"));
        }
        if let Some(Reference { name, uid }) = claims.pod
            && !name.is_empty()
            && !uid.is_empty()
        {
            say("pod-name", name);
            say("pod-uid", uid);
        }
        if let Some(Reference { name, uid }) = claims.node
            && !name.is_empty()
        {
            say("node-name", name);
            say("node-uid", uid);
        }
        Self { namespace: claims.namespace, account: claims.account, extra }
    }

    fn user(&self) -> String {
        format!("{}{}:{}", Account::USER_PREFIX, self.namespace, self.account.name)
    }

    /// Who that is to the API server.
    pub(super) fn identity(self) -> Identity {
        let identity = Identity::named(self.user(), Vec::new());
        Identity { uid: Some(self.account.uid), extra: self.extra, ..identity }
    }
}

#[derive(Deserialize)]
struct BoundClaims {
    #[serde(rename = "kubernetes.io")]
    kubernetes: Bound,
}

/// Other members may stand there too: newer Kubernetes says more.
#[derive(Deserialize)]
struct Bound {
    namespace: String,
    #[serde(rename = "serviceaccount")]
    account: Reference,
    #[serde(default)]
    pod: Option<Reference>,
    #[serde(default)]
    node: Option<Reference>,
}

#[derive(Debug, Deserialize)]
struct Reference {
    name: String,
    #[serde(default)]
    uid: String,
}

#[derive(Deserialize)]
struct LegacyClaims {
    #[serde(rename = "kubernetes.io/serviceaccount/namespace")]
    namespace: String,
    #[serde(rename = "kubernetes.io/serviceaccount/secret.name")]
    secret: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.name")]
    name: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.uid")]
    uid: String,
}

fn decode<T: DeserializeOwned>(claims: &Map<String, Value>) -> Result<T, TokenError> {
    serde_json::from_value(Value::Object(claims.clone())).map_err(|_| TokenError::Claims)
}

/// Whether `text` may name an object of Kubernetes. Above all it has no colon, so that a user name has one reading.
fn is_name(text: &str, longest: usize) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
    (1..=longest).contains(&text.len()) && text.bytes().all(is_allowed)
}

fn one_or_several<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrSeveral {
        One(String),
        Several(Vec<String>),
    }
    Ok(match OneOrSeveral::deserialize(deserializer)? {
        OneOrSeveral::One(one) => vec![one],
        OneOrSeveral::Several(several) => several,
    })
}

fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    String::deserialize(deserializer).map(Some)
}

/// Seconds since 1970, with or without a fraction.
fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SystemTime>, D::Error> {
    let seconds = f64::deserialize(deserializer)?;
    let since = Duration::try_from_secs_f64(seconds).ok();
    let time = since.and_then(|since| UNIX_EPOCH.checked_add(since));
    time.map(Some).ok_or_else(|| serde::de::Error::custom("it is not a time"))
}
