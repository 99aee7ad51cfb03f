//! `wharf credential-provider`: what a kubelet runs to learn how to log in at a registry, so that pods pull with their own
//! service accounts and need no Secret (KEP-2133 and KEP-4412).
//!
//! The kubelet asks on standard input, with a token of the pod's service account, and reads the answer on standard output.
//! That token is the password, and it is for the registry's host alone.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Read, Write};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

const API_VERSION: &str = "credentialprovider.kubelet.k8s.io/v1";

/// The longest request that is read, in bytes. A kubelet's has a token, a name, and perhaps annotations.
const MAX_REQUEST_BYTES: u64 = 1 << 20;

/// How long a kubelet uses an answer again, for the other images of a pod. It keeps answers by token, and a token that it
/// hands out has at least a fifth of its time left, which is at least ten minutes.
const REUSED_FOR: &str = "1m";

/// Answers the request on standard input.
///
/// # Errors
/// When it is no such request. The message holds nothing of it but the name of the image.
pub fn answer() -> anyhow::Result<()> {
    let input = io::stdin().lock();
    if input.is_terminal() {
        bail!(
            "a kubelet runs this, with a CredentialProviderRequest on standard input; \
             deploy/kubelet/credential-provider.yaml tells it to"
        );
    }
    let mut request = Vec::new();
    input.take(MAX_REQUEST_BYTES + 1).read_to_end(&mut request).context("cannot read the request")?;
    let request = Request::read(&request)?;
    let response = serde_json::to_string(&request.response()?)?;
    Ok(writeln!(io::stdout().lock(), "{response}")?)
}

/// What a kubelet asks. It has no `Debug`: a token is in it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    api_version: String,
    kind: String,
    /// The image, without tag or digest.
    image: String,
    /// Absent where the kubelet's configuration has no `tokenAttributes`, or the pod no service account.
    #[serde(default)]
    service_account_token: String,
}

/// What it is answered.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Response<'a> {
    api_version: &'static str,
    kind: &'static str,
    /// For what else the answer is good: whatever is at the same registry.
    cache_key_type: &'static str,
    cache_duration: &'static str,
    /// By registry; `null` is nothing to log in with.
    auth: Option<BTreeMap<&'a str, Login<'a>>>,
}

#[derive(Serialize)]
struct Login<'a> {
    username: &'static str,
    password: &'a str,
}

impl Request {
    fn read(text: &[u8]) -> anyhow::Result<Self> {
        if text.len() as u64 > MAX_REQUEST_BYTES {
            bail!("the request is longer than {MAX_REQUEST_BYTES} bytes");
        }
        // What serde says of an error may quote what it found, which may be the token.
        let request: Self = match serde_json::from_slice(text) {
            Ok(request) => request,
            Err(error) => bail!(
                "the request is no CredentialProviderRequest: line {}, column {}",
                error.line(),
                error.column()
            ),
        };
        if request.api_version != API_VERSION || request.kind != "CredentialProviderRequest" {
            bail!("the request is no CredentialProviderRequest of {API_VERSION}");
        }
        Ok(request)
    }

    fn response(&self) -> anyhow::Result<Response<'_>> {
        let response = Response {
            api_version: API_VERSION,
            kind: "CredentialProviderResponse",
            cache_key_type: "Registry",
            cache_duration: "0s",
            auth: None,
        };
        if self.service_account_token.is_empty() {
            return Ok(response);
        }
        let Some(host) = host(&self.image) else {
            bail!("the image {:?} names no registry", self.image);
        };
        let login = Login { username: "serviceaccount", password: &self.service_account_token };
        Ok(Response { cache_duration: REUSED_FOR, auth: Some([(host, login)].into()), ..response })
    }
}

/// The host of an image's name, with its port. A kubelet takes `*` there for any letters: there is none.
fn host(image: &str) -> Option<&str> {
    let (host, _) = image.split_once('/')?;
    let is_host = host == "localhost" || host.contains(['.', ':']);
    let is_plain = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte));
    (is_host && is_plain).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(image: &str, token: &str) -> anyhow::Result<String> {
        let request = serde_json::json!({
            "apiVersion": API_VERSION,
            "kind": "CredentialProviderRequest",
            "image": image,
            "serviceAccountToken": token,
            "serviceAccountAnnotations": { "team": "blue" },
        });
        Ok(serde_json::to_string(&Request::read(request.to_string().as_bytes())?.response()?)?)
    }

    #[test]
    fn the_token_is_for_the_images_registry_alone() {
        for (image, host) in [
            ("registry.example.com/team/app", "registry.example.com"),
            ("registry.example.com:5000/team/app", "registry.example.com:5000"),
            ("10.0.0.1:5000/team/app", "10.0.0.1:5000"),
            ("[fd00::1]:5000/team/app", "[fd00::1]:5000"),
            ("localhost/team/app", "localhost"),
        ] {
            let expected = format!(
                r#""cacheKeyType":"Registry","cacheDuration":"1m","auth":{{"{host}":{{"username":"serviceaccount","password":"t.o.ken"}}}}"#
            );
            let answer = answered(image, "t.o.ken").unwrap();
            assert!(answer.contains(&expected), "{answer}");
        }
        for image in ["app", "team/app", "*.com/team/app", "", "/app"] {
            let error = answered(image, "t.o.ken").err().unwrap_or_else(|| panic!("{image} has no host"));
            assert!(!format!("{error:#}").contains("t.o.ken"));
        }
    }

    #[test]
    fn without_a_token_there_is_nothing_to_log_in_with() {
        let answer = answered("registry.example.com/team/app", "").unwrap();
        assert!(answer.ends_with(r#""cacheDuration":"0s","auth":null}"#), "{answer}");
    }

    #[test]
    fn what_is_no_request_is_refused_without_being_repeated() {
        let version = "credentialprovider.kubelet.k8s.io/v1";
        for text in [
            String::new(),
            "{}".to_owned(),
            "\"t.o.ken\"".to_owned(),
            format!(r#"{{"apiVersion":"{version}","kind":"CredentialProviderRequest","image":["t.o.ken"]}}"#),
            format!(r#"{{"apiVersion":"{version}","kind":"t.o.ken","image":"a.b/c"}}"#),
            r#"{"apiVersion":"t.o.ken","kind":"CredentialProviderRequest","image":"a.b/c"}"#.to_owned(),
            " ".repeat(1 << 20) + "{\"t.o.ken\"}",
        ] {
            let error = Request::read(text.as_bytes()).err().unwrap_or_else(|| panic!("{text} is refused"));
            assert!(!format!("{error:#}").contains("t.o.ken"), "{error:#}");
        }
    }
}
