//! The `WWW-Authenticate` header: how to log in, and where.
//!
//! One scheme is offered, since clients read only the first of several, or mix them up. Whoever answers a Bearer challenge sends
//! a password to its realm. So the realm's host is the configured one, or that which a proxy says was called that the configuration
//! names as one to believe, or else the one that the client itself called: never what somebody says who can write a header.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::http::request::Parts;
use axum::http::uri::Scheme;
use axum::http::{HeaderValue, Uri, header};
use http::uri::Authority;

use crate::api::location;
use crate::config;
use crate::server::Particulars;

/// What clients are asked to do.
#[derive(Clone, Debug)]
pub struct Challenge {
    scheme: config::Challenge,
    /// The scheme and host of the token endpoint, if they are known beforehand.
    origin: Option<Uri>,
    /// The path of the token endpoint.
    path: String,
    /// What a password is for.
    realm: String,
}

/// Where a client called, kept for when the request is gone: the answer tells whether it is needed.
#[derive(Clone, Debug)]
pub enum Called {
    /// As a proxy tells that is believed.
    Told(Option<(Scheme, Authority)>),
    /// As the request itself says.
    Itself {
        /// `Host`.
        header: Option<HeaderValue>,
        /// What HTTP/2 has instead.
        authority: Option<Authority>,
        /// Whether it called by TLS.
        encrypted: bool,
    },
}

impl Called {
    /// Where the client that sent `request` called.
    pub fn by(request: &Parts) -> Self {
        let particulars = request.extensions.get::<Arc<Particulars>>();
        if particulars.is_some_and(|particulars| particulars.by_trusted_proxy()) {
            return Self::Told(location::called(request));
        }
        // A proxy that ends TLS says so. Where no proxies are configured anybody is believed who says it: that can only make the way
        // to the same host safer.
        let behind_tls = request.headers.get("x-forwarded-proto").is_some_and(|scheme| scheme == "https");
        Self::Itself {
            header: request.headers.get(header::HOST).cloned(),
            authority: request.uri.authority().cloned(),
            encrypted: behind_tls || request.extensions.get::<Scheme>() == Some(&Scheme::HTTPS),
        }
    }

    fn origin(&self) -> Option<(Scheme, Authority)> {
        let (header, authority, encrypted) = match self {
            Self::Told(told) => return told.clone(),
            Self::Itself { header, authority, encrypted } => (header, authority, *encrypted),
        };
        let host = match header {
            Some(host) => host.to_str().ok()?.parse().ok()?,
            None => authority.clone()?,
        };
        Some((if encrypted { Scheme::HTTPS } else { Scheme::HTTP }, host))
    }
}

/// What a challenge is about.
#[derive(Clone, Copy, Debug)]
pub enum Reason<'a> {
    /// No credential was shown.
    Missing,
    /// One was shown that is not good.
    Invalid,
    /// Nobody in particular may not do what this scope says.
    Scope(&'a str),
}

impl Challenge {
    /// A challenge by `scheme`, whose token endpoint is at `path` of `origin`, or of the host that the client calls. A password is for
    /// `realm`, printable ASCII without quotes.
    pub fn new(scheme: config::Challenge, origin: Option<Uri>, path: String, realm: String) -> Self {
        Self { scheme, origin, path, realm }
    }

    /// The header for one request.
    pub fn header(&self, called: &Called, reason: Reason<'_>) -> HeaderValue {
        let mut text = match (self.scheme, self.origin(called)) {
            (config::Challenge::Bearer, Some((scheme, host))) => {
                format!("Bearer realm=\"{scheme}://{host}{}\",service=\"{host}\"", self.path)
            }
            // Without a host there is no realm to send anybody to.
            (config::Challenge::Bearer, None) | (config::Challenge::Basic, _) => self.basic(),
        };
        match reason {
            Reason::Missing => {}
            // Without it containerd sends the same token again and again.
            Reason::Invalid => text.push_str(",error=\"invalid_token\""),
            Reason::Scope(scope) if self.scheme == config::Challenge::Bearer => {
                // Writing to a string does not fail.
                let _ = write!(text, ",scope=\"{scope}\"");
            }
            Reason::Scope(_) => {}
        }
        value(text)
    }

    /// The header of the token endpoint itself, which takes passwords.
    pub fn of_passwords(&self) -> HeaderValue {
        value(self.basic())
    }

    fn basic(&self) -> String {
        format!("Basic realm=\"{}\"", self.realm)
    }

    fn origin(&self, called: &Called) -> Option<(Scheme, Authority)> {
        match &self.origin {
            Some(origin) => Some((origin.scheme()?.clone(), origin.authority()?.clone())),
            None => called.origin(),
        }
    }
}

fn value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("realms, parsed hosts, paths and scopes are printable ASCII")
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    fn header(challenge: &Challenge, headers: &[(&str, &str)], reason: Reason<'_>) -> String {
        let mut request = Request::builder().uri("/v2/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        challenge.header(&Called::by(&parts), reason).to_str().unwrap().to_owned()
    }

    #[test]
    fn the_realm_is_where_the_client_called_and_nothing_that_a_header_adds() {
        let challenge =
            Challenge::new(config::Challenge::Bearer, None, "/token".to_owned(), "Wharf".to_owned());
        let scope = Reason::Scope("repository:team/app:pull");
        let host = ("host", "registry:5000");
        let realm =
            |scheme| format!("Bearer realm=\"{scheme}://registry:5000/token\",service=\"registry:5000\"");
        assert_eq!(header(&challenge, &[host], Reason::Missing), realm("http"));
        assert_eq!(
            header(&challenge, &[host, ("x-forwarded-host", "evil")], scope),
            realm("http") + ",scope=\"repository:team/app:pull\""
        );
        assert_eq!(
            header(&challenge, &[host, ("x-forwarded-proto", "https")], Reason::Invalid),
            realm("https") + ",error=\"invalid_token\""
        );
        assert_eq!(header(&challenge, &[("host", "a\"b")], Reason::Missing), "Basic realm=\"Wharf\"");
    }

    #[test]
    fn a_configured_url_counts_whatever_is_called() {
        let origin = Some("https://registry.example".parse().unwrap());
        let challenge =
            Challenge::new(config::Challenge::Bearer, origin, "/token".to_owned(), "Wharf".to_owned());
        assert_eq!(
            header(&challenge, &[("host", "10.0.0.1:5000")], Reason::Missing),
            "Bearer realm=\"https://registry.example/token\",service=\"registry.example\""
        );
    }

    #[test]
    fn basic_names_no_place() {
        let challenge =
            Challenge::new(config::Challenge::Basic, None, "/token".to_owned(), "Wharf".to_owned());
        assert_eq!(header(&challenge, &[("host", "r")], Reason::Scope("x")), "Basic realm=\"Wharf\"");
    }
}
