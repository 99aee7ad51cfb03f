//! Logins: who a request comes from, and the token endpoint.
//!
//! A password is looked at as a token first, whatever the user name: that is how service accounts log in. Whoever shows nothing is
//! `system:anonymous`, and may do what bindings give to that user or its group; whoever shows something that is not good is
//! refused, and never taken for nobody.

pub mod challenge;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use auth::{
    Authenticated, AuthenticationError, Authenticators, Credential, Identity, IssueError, RegistryTokens,
    Secret,
};
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http_body_util::{BodyExt, Limited};
use serde::Serialize;

use self::challenge::{Called, Challenge, Reason};
use crate::api::error::ApiError;
use crate::server::Peer;

/// Where tokens are given out; OpenShift's clients know the second.
pub const TOKEN_PATHS: [&str; 2] = ["/token", "/openshift/token"];

/// The longest form that the token endpoint reads, in bytes: a token of 16 KiB, escaped, and what is beside it.
const MAX_FORM_BYTES: usize = 64 * 1024;

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

    /// Whether it is nobody in particular, who may become somebody by logging in.
    pub fn is_anonymous(&self) -> bool {
        self.identity.name == ANONYMOUS.name
    }
}

impl Login {
    /// Logins by what `authenticators` know. Among them is the one for `tokens`, which the token endpoint gives out.
    pub fn new(authenticators: Authenticators, tokens: Arc<RegistryTokens>, challenge: Challenge) -> Self {
        Self(Arc::new(Inner { authenticators, tokens, challenge }))
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

    /// The token endpoint.
    pub fn router(&self) -> Router {
        TOKEN_PATHS
            .iter()
            .fold(Router::new(), |router, path| router.route(path, any(answer)))
            .with_state(self.clone())
    }

    /// Tells whom a request comes from.
    ///
    /// # Errors
    /// [`ApiError::Unauthorized`] if what is shown is not good; [`ApiError::Unavailable`] if that cannot be found out.
    pub async fn caller(&self, request: &Parts) -> Result<Caller, ApiError> {
        let refused = || self.unauthorized(&Called::by(request), Reason::Invalid);
        let credential = match credential(&request.headers) {
            Shown::Nothing => return Ok(Caller::anonymous()),
            Shown::Credential(credential) => credential,
            Shown::Nonsense => return Err(refused()),
        };
        match self.identify(&credential, source(request)).await {
            Ok(known) => Ok(Caller { identity: known.identity, showed_credential: true }),
            Err(error) => Err(failure(error, refused)),
        }
    }

    /// The answer that asks whoever `called` to log in.
    pub fn unauthorized(&self, called: &Called, reason: Reason<'_>) -> ApiError {
        ApiError::Unauthorized { challenge: self.0.challenge.header(called, reason) }
    }

    /// `GET` and `POST` of the token endpoint: a token for a credential, or one for nobody.
    async fn token(&self, request: Parts, body: Body) -> Result<Response, ApiError> {
        let refused = || ApiError::Unauthorized { challenge: Challenge::of_passwords() };
        let shown = match request.method {
            Method::GET | Method::HEAD => credential(&request.headers),
            // A form has the credential in it; a client that sends both means the form.
            Method::POST => match form(body).await? {
                Shown::Nothing => credential(&request.headers),
                shown => shown,
            },
            _ => return Err(ApiError::MethodNotAllowed { allow: "GET, HEAD, POST".to_owned() }),
        };
        let (known, shown) = match shown {
            Shown::Nonsense => return Err(refused()),
            Shown::Nothing => (Authenticated { identity: Arc::clone(&ANONYMOUS), expires: None }, None),
            Shown::Credential(credential) => {
                let known = self.0.authenticators.identify_for_token(&credential, source(&request)).await;
                (known.map_err(|error| failure(error, refused))?, credential.token().cloned())
            }
        };
        let (token, lifetime) = match self.0.tokens.issue(&known) {
            Ok(issued) => (issued.token, issued.lifetime),
            Err(IssueError::Expired) => return Err(refused()),
            // Somebody in very many groups goes on with the token that they have.
            Err(error @ IssueError::TooLarge) => {
                (shown.ok_or_else(|| ApiError::Internal(error.into()))?, GIVEN_BACK)
            }
        };
        let token =
            Token { token: token.expose(), access_token: token.expose(), expires_in: lifetime.as_secs() };
        let body = serde_json::to_vec(&token).map_err(|error| ApiError::Internal(error.into()))?;
        Ok(([(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")], body)
            .into_response())
    }
}

/// The answer of the token endpoint. When it was made is left out: a clock that is off would end it early.
#[derive(Serialize)]
struct Token<'a> {
    token: &'a str,
    access_token: &'a str,
    /// In seconds.
    expires_in: u64,
}

async fn answer(State(login): State<Login>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    login.token(parts, body).await.unwrap_or_else(IntoResponse::into_response)
}

/// What a request shows.
enum Shown {
    Nothing,
    Credential(Credential),
    /// Something that nobody can read.
    Nonsense,
}

/// Reads `Authorization` (RFC 9110 §11.6.2).
fn credential(headers: &HeaderMap) -> Shown {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (value, None) = (values.next(), values.next()) else { return Shown::Nonsense };
    let Some(value) = value else { return Shown::Nothing };
    let Some((scheme, rest)) = value.to_str().ok().and_then(|text| text.split_once(' ')) else {
        return Shown::Nonsense;
    };
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        // OpenShift's registry gives this to nobody in particular.
        return if rest == "anonymous" {
            Shown::Nothing
        } else {
            Shown::Credential(Credential::Token(Secret::new(rest)))
        };
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return Shown::Nonsense;
    }
    let Some(text) = BASE64_STANDARD.decode(rest).ok().and_then(|bytes| String::from_utf8(bytes).ok()) else {
        return Shown::Nonsense;
    };
    match text.split_once(':') {
        None => Shown::Nonsense,
        // How containers/image spells that it has nothing to show.
        Some(("", "")) => Shown::Nothing,
        Some((user, password)) => {
            Shown::Credential(Credential::Password { user: user.to_owned(), password: Secret::new(password) })
        }
    }
}

/// Reads the form of an OAuth2 token request: a password, or a token in place of what OAuth2 calls a refresh token.
async fn form(body: Body) -> Result<Shown, ApiError> {
    let bytes = match Limited::new(body, MAX_FORM_BYTES).collect().await {
        Ok(whole) => whole.to_bytes(),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => return Ok(Shown::Nonsense),
        Err(error) => return Err(ApiError::of_body(error)),
    };
    let mut grant = None;
    let (mut user, mut password, mut refresh_token) = (String::new(), String::new(), String::new());
    for (name, value) in form_urlencoded::parse(&bytes) {
        match &*name {
            "grant_type" => grant = Some(value.into_owned()),
            "username" => user = value.into_owned(),
            "password" => password = value.into_owned(),
            "refresh_token" => refresh_token = value.into_owned(),
            _ => {}
        }
    }
    Ok(match grant.as_deref() {
        Some("password") if user.is_empty() && password.is_empty() => Shown::Nothing,
        Some("password") => Shown::Credential(Credential::Password { user, password: Secret::new(password) }),
        Some("refresh_token") => Shown::Credential(Credential::Token(Secret::new(refresh_token))),
        Some(_) => Shown::Nonsense,
        None => Shown::Nothing,
    })
}

/// Where a request comes from; a Unix socket is this machine.
fn source(request: &Parts) -> IpAddr {
    let peer = request.extensions.get::<Arc<Peer>>();
    peer.and_then(|peer| peer.address).map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |address| address.ip())
}

fn failure(error: AuthenticationError, refused: impl FnOnce() -> ApiError) -> ApiError {
    match error {
        AuthenticationError::Rejected(reason) => {
            tracing::info!(reason, "a credential was refused");
            refused()
        }
        AuthenticationError::TooManyFailures { retry_after } => ApiError::TooManyRequests { retry_after },
        error @ AuthenticationError::Unavailable(_) => ApiError::Unavailable(error.into()),
    }
}
