//! Logins: who a request comes from, and the token endpoint.
//!
//! A password is looked at as a token first, whatever the user name: that is how service accounts log in. Whoever shows nothing is
//! `system:anonymous`, and may do what bindings give to that user or its group; whoever shows something that is not good is
//! refused, and never taken for nobody.

mod certificate;
pub mod challenge;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use auth::{
    Authenticated, AuthenticationError, Authenticators, Clock, Credential, Identity, IssueError,
    RegistryTokens, Secret,
};
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Serialize;
use tokio::time::timeout;

use self::certificate::Subject;
use self::challenge::{Called, Challenge, Reason};
use crate::api::error::ApiError;
use crate::audit::AuditLog;
use crate::config::Certificates;
use crate::server::{Particulars, Peer};

/// Where tokens are given out; OpenShift's clients know the second.
pub const TOKEN_PATHS: [&str; 2] = ["/token", "/openshift/token"];

/// The longest form that the token endpoint reads, in bytes: a token of 16 KiB, escaped, and what is beside it.
const MAX_FORM_BYTES: usize = 64 * 1024;

/// How long a form may take to arrive.
const FORM_ARRIVES_WITHIN: Duration = Duration::from_secs(30);

/// How long the token of somebody lasts whose own token is given back, unless it ends before that.
const GIVEN_BACK: Duration = Duration::from_secs(300);

static ANONYMOUS: LazyLock<Arc<Identity>> = LazyLock::new(|| Arc::new(Identity::anonymous()));

/// Knows whom requests come from. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Login(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    authenticators: Authenticators,
    tokens: Arc<RegistryTokens>,
    challenge: Challenge,
    certificates: Certificates,
    audit: AuditLog,
    clock: Clock,
}

/// Whom a request comes from.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Who they are.
    pub identity: Arc<Identity>,
    /// Whether they showed something that says so. Nobody in particular may, too: a token for nobody.
    pub showed_credential: bool,
}

impl Caller {
    /// Whoever shows nothing.
    pub fn anonymous() -> Self {
        Self { identity: Arc::clone(&ANONYMOUS), showed_credential: false }
    }
}

impl Login {
    /// Logins by what `authenticators` know. Among them is the one for `tokens`, which the token endpoint gives out.
    pub fn new(
        authenticators: Authenticators,
        tokens: Arc<RegistryTokens>,
        challenge: Challenge,
        certificates: Certificates,
        audit: AuditLog,
        clock: Clock,
    ) -> Self {
        Self(Arc::new(Inner { authenticators, tokens, challenge, certificates, audit, clock }))
    }

    /// Tells who shows `credential` from the address `source`.
    ///
    /// # Errors
    /// When it is not good, or that cannot be found out.
    pub async fn identify(
        &self,
        credential: &Credential,
        source: IpAddr,
    ) -> Result<Authenticated, AuthenticationError> {
        self.0.authenticators.identify(credential, source).await
    }

    /// The token endpoint, below `prefix` as the API is.
    pub fn router(&self, prefix: &str) -> Router {
        TOKEN_PATHS
            .iter()
            .fold(Router::new(), |router, path| router.route(&format!("{prefix}{path}"), any(answer)))
            .with_state(self.clone())
    }

    /// Tells whom a request comes from.
    ///
    /// # Errors
    /// [`ApiError::Unauthorized`] if what is shown is not good; [`ApiError::Unavailable`] if that cannot be found out.
    pub async fn caller(&self, request: &Parts) -> Result<Caller, ApiError> {
        let authenticators = &self.0.authenticators;
        let header = only_authorization(&request.headers).map(HeaderValue::as_bytes);
        if let Some(identity) = header.and_then(|header| authenticators.recall(header)) {
            return Ok(Caller { identity, showed_credential: true });
        }
        // In a box: whoever is recalled needs no room for it.
        Box::pin(self.find_out(request, header)).await
    }

    async fn find_out(&self, request: &Parts, header: Option<&[u8]>) -> Result<Caller, ApiError> {
        let authenticators = &self.0.authenticators;
        let source = source(request);
        let identified = match (self.shown(request), header) {
            (Shown::Nothing, _) => return Ok(Caller::anonymous()),
            (Shown::Credential(credential), Some(header)) => {
                authenticators.identify_by(header, &credential, source).await
            }
            (Shown::Credential(credential) | Shown::Certificate(Subject { credential, .. }), _) => {
                authenticators.identify(&credential, source).await
            }
        };
        let challenge = || self.0.challenge.header(&Called::by(request), Reason::Invalid);
        match identified {
            Ok(known) => Ok(Caller { identity: known.identity, showed_credential: true }),
            Err(error) => Err(self.failure(request, error, challenge).await),
        }
    }

    /// What a request shows: what its header says, or else the certificate of its connection.
    ///
    /// The API server looks at the certificate first. Here it often belongs to a machine, which needs it to connect at all, and the
    /// header to whoever is at work on it: who logs in means to be somebody else than the machine. A header that is not good is
    /// refused all the same, and never made good by the certificate.
    fn shown(&self, request: &Parts) -> Shown {
        match credential(&request.headers) {
            Shown::Nothing if self.0.certificates == Certificates::NameUsers => {
                of_certificate(request, self.0.clock.now())
            }
            shown => shown,
        }
    }

    /// The answer that asks whoever `called` to log in.
    pub fn unauthorized(&self, called: &Called, reason: Reason<'_>) -> ApiError {
        ApiError::Unauthorized { challenge: self.0.challenge.header(called, reason) }
    }

    /// `GET` and `POST` of the token endpoint: a token for a credential, or one for nobody.
    async fn token(&self, request: Parts, body: Body) -> Result<Response, ApiError> {
        let (shown, scope) = match request.method {
            Method::GET | Method::HEAD => (self.shown(&request), None),
            // A form has the credential in it; a client that sends both means the form.
            Method::POST => match form(&request.headers, body).await? {
                Form { shown: Shown::Nothing, scope } => (self.shown(&request), Some(scope)),
                Form { shown, scope } => (shown, Some(scope)),
            },
            _ => return Err(ApiError::MethodNotAllowed { allow: "GET, HEAD, POST".to_owned() }),
        };
        let (known, shown) = match shown {
            Shown::Nothing => (Authenticated::new(Arc::clone(&ANONYMOUS)), None),
            Shown::Credential(credential) => {
                (self.known_for_token(&request, &credential).await?, credential.token().cloned())
            }
            Shown::Certificate(Subject { credential, expires }) => {
                let known = self.known_for_token(&request, &credential).await?;
                (Authenticated { expires: Some(expires), ..known }, None)
            }
        };
        let (token, lifetime) = match self.0.tokens.issue(&known, shown.as_ref()) {
            Ok(issued) => (issued.token, issued.lifetime),
            Err(error) => match (error, shown) {
                // Somebody in very many groups, or with a very long token, goes on with the one that they have.
                (IssueError::TooLarge, Some(shown)) => {
                    let left =
                        known.expires.map(|end| end.duration_since(self.0.clock.now()).unwrap_or_default());
                    (shown, left.map_or(GIVEN_BACK, |left| left.min(GIVEN_BACK)))
                }
                (IssueError::TooLarge | IssueError::Expired, _) => {
                    return Err(self
                        .refused(&request, &error.to_string(), self.0.challenge.of_passwords())
                        .await);
                }
                (IssueError::Unconfirmable | IssueError::Unsealed(_), _) => {
                    return Err(ApiError::Internal(error.into()));
                }
            },
        };
        let (token, expires_in) = (token.expose(), lifetime.as_secs());
        let token = Token { token, access_token: token, expires_in, scope };
        let body = serde_json::to_vec(&token).map_err(|error| ApiError::Internal(error.into()))?;
        Ok(([(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")], body)
            .into_response())
    }

    async fn known_for_token(
        &self,
        request: &Parts,
        credential: &Credential,
    ) -> Result<Authenticated, ApiError> {
        match self.0.authenticators.identify_for_token(credential, source(request)).await {
            Ok(known) => Ok(known),
            Err(error) => Err(self.failure(request, error, || self.0.challenge.of_passwords()).await),
        }
    }

    async fn failure(
        &self,
        request: &Parts,
        error: AuthenticationError,
        challenge: impl FnOnce() -> HeaderValue,
    ) -> ApiError {
        match error {
            AuthenticationError::Rejected(reason) => self.refused(request, &reason, challenge()).await,
            AuthenticationError::TooManyFailures { retry_after } => {
                self.0.audit.refused(request, "too many credentials from there were not good").await;
                ApiError::TooManyRequests { retry_after }
            }
            error @ AuthenticationError::Unavailable(_) => ApiError::Unavailable(error.into()),
        }
    }

    /// The answer to whoever shows something that is not good, once that is in the audit log.
    async fn refused(&self, request: &Parts, reason: &str, challenge: HeaderValue) -> ApiError {
        self.0.audit.refused(request, reason).await;
        ApiError::Unauthorized { challenge }
    }
}

/// The answer of the token endpoint. When it was made is left out: a clock that is off would end it early.
#[derive(Serialize)]
struct Token<'a> {
    token: &'a str,
    access_token: &'a str,
    /// In seconds.
    expires_in: u64,
    /// The answer to a form must say what was granted (distribution's `spec/auth/oauth.md`): all that was asked for, as no token is
    /// restricted. What its owner may is judged at each request.
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<String>,
}

async fn answer(State(login): State<Login>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    login.token(parts, body).await.unwrap_or_else(IntoResponse::into_response)
}

/// What a request shows.
enum Shown {
    Nothing,
    /// In its header, or in a form; never in a certificate, since what a header shows is found by the header again.
    Credential(Credential),
    Certificate(Subject),
}

impl Shown {
    /// Something that is no credential.
    fn unreadable(text: &[u8]) -> Self {
        Self::Credential(unreadable(text))
    }
}

fn unreadable(text: &[u8]) -> Credential {
    Credential::Unreadable(Secret::new(String::from_utf8_lossy(text)))
}

/// `Authorization`, if it stands there once.
fn only_authorization(headers: &HeaderMap) -> Option<&HeaderValue> {
    let mut each = headers.get_all(header::AUTHORIZATION).iter();
    each.next().filter(|_| each.next().is_none())
}

/// Reads `Authorization` (RFC 9110 §11.6.2), which stands there once.
fn credential(headers: &HeaderMap) -> Shown {
    if !headers.contains_key(header::AUTHORIZATION) {
        return Shown::Nothing;
    }
    only_authorization(headers).and_then(authorization).unwrap_or_else(|| {
        let all: Vec<&[u8]> =
            headers.get_all(header::AUTHORIZATION).iter().map(HeaderValue::as_bytes).collect();
        Shown::unreadable(&all.concat())
    })
}

fn authorization(value: &HeaderValue) -> Option<Shown> {
    // What else it may have than visible ASCII is found out where a token is not known yet.
    let (scheme, rest) = str::from_utf8(value.as_bytes()).ok()?.split_once(' ')?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(match rest {
            // OpenShift's registry gives this to nobody in particular.
            "anonymous" => Shown::Nothing,
            token => Shown::Credential(Credential::Token(Secret::new(token))),
        });
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(BASE64_STANDARD.decode(rest).ok()?).ok()?;
    Some(match text.split_once(':')? {
        // How containers/image spells that it has nothing to show.
        ("", "") => Shown::Nothing,
        (user, password) => {
            Shown::Credential(Credential::Password { user: user.to_owned(), password: Secret::new(password) })
        }
    })
}

/// Reads the certificate of the connection. One that has ended since it began is no longer good; that of a proxy which is believed says
/// nothing of those whose requests it passes on.
fn of_certificate(request: &Parts, now: SystemTime) -> Shown {
    let particulars = request.extensions.get::<Arc<Particulars>>();
    if particulars.is_some_and(|particulars| particulars.by_trusted_proxy()) {
        return Shown::Nothing;
    }
    let peer = request.extensions.get::<Arc<Peer>>();
    let Some(certificate) = peer.and_then(|peer| peer.certificates.first()) else { return Shown::Nothing };
    Shown::Certificate(
        Subject::of(certificate)
            .filter(|subject| subject.expires > now)
            .unwrap_or_else(|| Subject { credential: unreadable(certificate), expires: now }),
    )
}

/// What the form of an OAuth2 token request says.
struct Form {
    shown: Shown,
    /// What the token is asked for: words with a space between, no longer than the form.
    scope: String,
}

/// Reads such a form: a password, or a token in place of what OAuth2 calls a refresh token.
async fn form(headers: &HeaderMap, body: Body) -> Result<Form, ApiError> {
    let whole = timeout(FORM_ARRIVES_WITHIN, read(body)).await.map_err(|_| ApiError::BodyTimeout)??;
    let unreadable = |why: &[u8]| Ok(Form { shown: Shown::unreadable(why), scope: String::new() });
    let Some(bytes) = whole else { return unreadable(b"a form that is too long") };
    // Whoever shows something is not taken for nobody.
    if !bytes.is_empty() && !is_form(headers) {
        return unreadable(&bytes);
    }
    let (mut grant, mut scopes) = (None, Vec::new());
    let (mut user, mut password, mut refresh_token) = (String::new(), String::new(), String::new());
    for (name, value) in form_urlencoded::parse(&bytes) {
        match &*name {
            "grant_type" => grant = Some(value.into_owned()),
            "username" => user = value.into_owned(),
            "password" => password = value.into_owned(),
            "refresh_token" => refresh_token = value.into_owned(),
            "scope" => scopes.extend(value.split(' ').filter(|word| is_scope(word)).map(str::to_owned)),
            _ => {}
        }
    }
    let shown = match grant.as_deref() {
        Some("password") if user.is_empty() && password.is_empty() => Shown::Nothing,
        Some("password") => Shown::Credential(Credential::Password { user, password: Secret::new(password) }),
        Some("refresh_token") => Shown::Credential(Credential::Token(Secret::new(refresh_token))),
        Some(other) => Shown::unreadable(other.as_bytes()),
        None if [&user, &password, &refresh_token].iter().any(|shown| !shown.is_empty()) => {
            Shown::unreadable(b"a form without grant_type")
        }
        None => Shown::Nothing,
    };
    Ok(Form { shown, scope: scopes.join(" ") })
}

/// Reads a body whole, unless it is too long for a form. What comes is copied: each piece is a part of a buffer of the connection's, which
/// it would keep, however small it is.
async fn read(body: Body) -> Result<Option<Vec<u8>>, ApiError> {
    let (mut body, mut read) = (Limited::new(body, MAX_FORM_BYTES), Vec::new());
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => read.extend_from_slice(&frame.into_data().unwrap_or_default()),
            Err(error) if error.is::<LengthLimitError>() => return Ok(None),
            Err(error) => return Err(ApiError::of_body(error)),
        }
    }
    Ok(Some(read))
}

/// Whether a body is said to be a form, or nothing is said of it.
fn is_form(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_none_or(|kind| {
        let kind = kind.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
        kind.trim_ascii().eq_ignore_ascii_case(b"application/x-www-form-urlencoded")
    })
}

/// Whether a word is a scope (RFC 6749 §3.3).
fn is_scope(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\')
}

/// Where a request comes from; a Unix socket is this machine.
fn source(request: &Parts) -> IpAddr {
    let particulars = request.extensions.get::<Arc<Particulars>>();
    particulars.and_then(|particulars| particulars.client_address()).unwrap_or(Ipv4Addr::LOCALHOST.into())
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::UNIX_EPOCH;

    use auth::{Attempts, AuthenticatorOptions, RegistryTokenKeys};
    use bytes::Bytes;
    use futures_util::{StreamExt, stream};
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;
    use crate::config;

    const END: u64 = 1_800_000_000;

    #[tokio::test]
    async fn a_certificate_that_ends_while_its_connection_is_open_is_good_no_longer() {
        let now = Arc::new(AtomicU64::new(END - 1));
        let shown = Arc::clone(&now);
        let clock = Clock::new(move || UNIX_EPOCH + Duration::from_secs(shown.load(Ordering::SeqCst)));
        let authenticators = Authenticators::new(&AuthenticatorOptions::default(), clock.clone()).unwrap();
        let authenticators = authenticators.then(Arc::new(auth::Certificates), Attempts::Unlimited);
        let keys = RegistryTokenKeys::random().unwrap();
        let tokens = RegistryTokens::new(keys, "wharf".to_owned(), GIVEN_BACK, None, clock.clone());
        let realm = "Wharf".to_owned();
        let challenge = Challenge::new(config::Challenge::Bearer, None, TOKEN_PATHS[0].to_owned(), realm);
        let (certificates, audit) = (Certificates::NameUsers, AuditLog::off());
        let login = Login::new(authenticators, Arc::new(tokens), challenge, certificates, audit, clock);

        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "alice");
        params.not_after = (UNIX_EPOCH + Duration::from_secs(END)).into();
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let certificates = vec![certificate.der().clone()];
        let peer = Arc::new(Peer { address: None, encrypted: true, certificates });
        let request = || Request::builder().extension(Arc::clone(&peer)).body(()).unwrap().into_parts().0;
        let token = async || login.token(request(), Body::empty()).await;

        assert_eq!(login.caller(&request()).await.unwrap().identity.name, "alice");
        assert!(token().await.is_ok());
        // How containers/image spells that it has nothing to show: it is the certificate that says who they are, each time.
        let mut nothing = request();
        nothing.headers.insert(header::AUTHORIZATION, HeaderValue::from_static("Basic Og=="));
        assert_eq!(login.caller(&nothing).await.unwrap().identity.name, "alice");
        nothing.extensions.remove::<Arc<Peer>>();
        assert!(login.caller(&nothing).await.unwrap().identity.is_anonymous());
        now.store(END, Ordering::SeqCst);
        assert!(matches!(login.caller(&request()).await, Err(ApiError::Unauthorized { .. })));
        assert!(matches!(token().await, Err(ApiError::Unauthorized { .. })));
    }

    /// A piece of a body, which counts as held as long as it is.
    struct Piece(Arc<AtomicU64>);

    impl AsRef<[u8]> for Piece {
        fn as_ref(&self) -> &[u8] {
            b"a"
        }
    }

    impl Drop for Piece {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }

    #[tokio::test]
    async fn a_form_that_comes_in_small_pieces_holds_no_more_than_one_of_them() {
        let held = Arc::new(AtomicU64::new(0));
        let held_by_pieces = Arc::clone(&held);
        let pieces = stream::iter(0..1000).map(move |_| {
            assert!(held_by_pieces.fetch_add(1, Ordering::SeqCst) <= 1, "the one before is still held");
            Ok::<_, Infallible>(Bytes::from_owner(Piece(Arc::clone(&held_by_pieces))))
        });
        let whole = read(Body::from_stream(pieces)).await.unwrap();
        assert_eq!(whole.map(|whole| whole.len()), Some(1000));
        assert_eq!(held.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn what_is_sent_as_something_else_than_a_form_is_not_taken_for_nothing() {
        let shown = async |kind: Option<&'static str>, text: &'static str| {
            let kind = kind.map(|kind| (header::CONTENT_TYPE, HeaderValue::from_static(kind)));
            form(&HeaderMap::from_iter(kind), Body::from(text)).await.unwrap().shown
        };
        let password = "grant_type=password&username=u&password=p";
        for kind in [None, Some("Application/X-WWW-Form-Urlencoded ; charset=utf-8")] {
            let shown = shown(kind, password).await;
            assert!(matches!(shown, Shown::Credential(Credential::Password { .. })), "{kind:?}");
        }
        for (kind, text) in [
            ("application/json", r#"{"grant_type":"password","username":"u","password":"p"}"#),
            ("multipart/form-data; boundary=x", "--x"),
            ("text/plain", password),
        ] {
            let something = shown(Some(kind), text).await;
            assert!(matches!(something, Shown::Credential(Credential::Unreadable(_))), "{kind}");
            assert!(matches!(shown(Some(kind), "").await, Shown::Nothing), "{kind}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_form_arrives_within_half_a_minute() {
        let slow = stream::iter(0..100).then(async |_| {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok::<_, Infallible>(Bytes::from_static(b"a"))
        });
        let read = form(&HeaderMap::new(), Body::from_stream(slow)).await;
        assert!(matches!(read, Err(ApiError::BodyTimeout)));
    }
}
