//! The URLs that answers hold: what stands before `/v2/` in a `Location` or a `Link`.

use axum::http::request::Parts;
use axum::http::uri::{Authority, Scheme};
use axum::http::{HeaderMap, HeaderValue, header};

use crate::api::endpoint::Endpoint;
use crate::config::Locations;

/// How the URLs in answers are written.
#[derive(Clone, Debug)]
pub struct Urls {
    /// How `Location` is written.
    pub locations: Locations,
    /// The path below which the API lies: empty, or `/so/me/thing`.
    pub prefix: String,
}

/// What the `Location`s in the answer to one request begin with.
#[derive(Clone, Debug)]
pub(super) struct Base(String);

impl Urls {
    /// What `Location` begins with in the answer to `request`.
    pub(super) fn base(&self, request: &Parts) -> Base {
        Base(match &self.locations {
            Locations::Relative => self.prefix.clone(),
            Locations::FromRequest => match called(request) {
                Some((scheme, host)) => format!("{scheme}://{host}{}", self.prefix),
                None => self.prefix.clone(),
            },
            Locations::Below(url) => {
                let origin = url.to_string();
                let prefix = if url.path() == "/" { &self.prefix } else { "" };
                origin.trim_end_matches('/').to_owned() + prefix
            }
        })
    }

    /// What the path in a `Link` begins with. It is always a path: crane refuses one that names a host under another name.
    pub fn path(&self) -> &str {
        match &self.locations {
            Locations::Below(url) if url.path() != "/" => url.path().trim_end_matches('/'),
            Locations::Below(_) | Locations::FromRequest | Locations::Relative => &self.prefix,
        }
    }
}

impl Base {
    /// The `Location` of something, from its endpoint, and a query if there is one.
    pub(super) fn location(&self, endpoint: &Endpoint, query: Option<&str>) -> HeaderValue {
        let (mark, query) = query.map_or(("", ""), |query| ("?", query));
        HeaderValue::try_from(format!("{}{endpoint}{mark}{query}", self.0))
            .expect("paths, parsed URLs and escaped queries are visible ASCII characters")
    }
}

/// The scheme and host that the client used, as proxies tell it, or else the request itself. A proxy that writes `Forwarded`
/// is not asked for the older headers, as in distribution. Where the configuration names proxies that are to be believed, the
/// server has taken out what others say.
pub fn called(request: &Parts) -> Option<(Scheme, Authority)> {
    let headers = &request.headers;
    let (host, scheme) = match headers.get(header::FORWARDED).and_then(|header| header.to_str().ok()) {
        Some(header) => (forwarded(header, "host"), forwarded(header, "proto")),
        None => (first(headers, "x-forwarded-host"), first(headers, "x-forwarded-proto")),
    };
    let authority: Authority = match host.or_else(|| first(headers, header::HOST.as_str())) {
        Some(host) => host.parse().ok()?,
        None => request.uri.authority()?.clone(),
    };
    let scheme = match scheme {
        Some("https") => Scheme::HTTPS,
        Some("http") => Scheme::HTTP,
        // HTTP/2 names it in the request; for HTTP/1.1 the connection knows.
        _ => request.uri.scheme().or_else(|| request.extensions.get()).cloned().unwrap_or(Scheme::HTTP),
    };
    Some((scheme, authority))
}

/// The first element of a header: each proxy on the way appends one.
fn first<'r>(headers: &'r HeaderMap, name: &str) -> Option<&'r str> {
    headers.get(name)?.to_str().ok()?.split(',').next().map(str::trim).filter(|element| !element.is_empty())
}

/// A parameter of the first element of `Forwarded` (RFC 7239), as in `for=192.0.2.60;proto=https;host="registry:5000"`. Neither
/// hosts nor schemes need the escapes that a quoted text may have, so one that has them is none.
fn forwarded<'r>(header: &'r str, name: &str) -> Option<&'r str> {
    let mut rest = header;
    loop {
        let (parameter, value) = rest.split_once('=')?;
        let (value, after) = match value.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => value.split_at(value.find([';', ',']).unwrap_or(value.len())),
        };
        if parameter.trim().eq_ignore_ascii_case(name) {
            return Some(value.trim()).filter(|value| !value.is_empty() && !value.contains('\\'));
        }
        rest = after.trim_start().strip_prefix(';')?;
    }
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    fn location(locations: Locations, prefix: &str, headers: &[(&str, &str)]) -> String {
        let urls = Urls { locations, prefix: prefix.to_owned() };
        let mut request = Request::builder().uri("/v2/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (request, ()) = request.body(()).unwrap().into_parts();
        urls.base(&request).location(&Endpoint::Base, None).to_str().unwrap().to_owned()
    }

    #[test]
    fn a_path_is_right_wherever_the_registry_is_reached() {
        assert_eq!(location(Locations::Relative, "", &[("host", "registry:5000")]), "/v2/");
        assert_eq!(location(Locations::Relative, "/images", &[]), "/images/v2/");
    }

    #[test]
    fn the_client_is_called_back_where_it_called() {
        let cases: [(&[(&str, &str)], &str); 11] = [
            (&[("host", "registry:5000")], "http://registry:5000/images/v2/"),
            (&[("host", "inner"), ("x-forwarded-proto", "https")], "https://inner/images/v2/"),
            (
                &[
                    ("host", "inner"),
                    ("x-forwarded-host", "outer, middle"),
                    ("x-forwarded-proto", "https, http"),
                ],
                "https://outer/images/v2/",
            ),
            (&[("host", "registry"), ("x-forwarded-proto", "gopher")], "http://registry/images/v2/"),
            (&[("host", "no host at all")], "/images/v2/"),
            (
                &[
                    ("host", "inner"),
                    ("forwarded", "for=10.0.0.1; Proto=https ;host=\"outer:5000\", host=middle"),
                ],
                "https://outer:5000/images/v2/",
            ),
            (
                &[("host", "inner"), ("forwarded", "proto=https"), ("x-forwarded-host", "older")],
                "https://inner/images/v2/",
            ),
            (
                &[("host", "inner"), ("forwarded", "for=\"_x;host=outer\", host=middle")],
                "http://inner/images/v2/",
            ),
            (&[("host", "inner"), ("forwarded", "host=\"outer")], "http://inner/images/v2/"),
            (&[("host", "inner"), ("forwarded", "host=\"o\\uter\";proto=\"\"")], "http://inner/images/v2/"),
            (&[], "/images/v2/"),
        ];
        for (headers, expected) in cases {
            assert_eq!(location(Locations::FromRequest, "/images", headers), expected, "{headers:?}");
        }
    }

    #[test]
    fn a_configured_url_is_taken_whole() {
        let below = |url: &str| Locations::Below(url.parse().unwrap());
        let elsewhere = [("host", "elsewhere")];
        assert_eq!(location(below("https://registry"), "", &elsewhere), "https://registry/v2/");
        assert_eq!(
            location(below("https://registry/"), "/images", &elsewhere),
            "https://registry/images/v2/"
        );
        assert_eq!(location(below("https://registry/a/"), "/images", &elsewhere), "https://registry/a/v2/");
        let path = |url: &str| Urls { locations: below(url), prefix: "/images".to_owned() }.path().to_owned();
        assert_eq!((path("https://registry"), path("https://registry/a/")), ("/images".into(), "/a".into()));
    }
}
