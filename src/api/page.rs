//! Long lists in pages: `n`, `last` and the `Link` to what follows.

use axum::http::HeaderValue;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::api::endpoint::Endpoint;
use crate::api::error::ApiError;
use crate::api::query::Query;

/// Every character but those that RFC 3986 §2.3 calls unreserved.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// How long a page may be.
#[derive(Clone, Copy, Debug)]
pub struct PageSizes {
    /// What a request without `n` gets.
    pub default: usize,
    /// What a request gets that asks for more. It is no error to ask: Renovate asks for 10,000.
    pub most: usize,
}

/// The part of a list that a request asks for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PageRequest {
    /// The most entries to answer. 0 asks for an empty list, without a `Link`.
    pub limit: usize,
    /// The entry after which to begin. It need not be in the list, nor be anything that could be.
    pub last: Option<String>,
}

impl PageRequest {
    /// Reads `n` and `last`.
    ///
    /// # Errors
    /// [`ApiError::PaginationNumberInvalid`] if `n` is anything but decimal digits.
    pub fn parse(query: Query<'_>, sizes: PageSizes) -> Result<Self, ApiError> {
        let limit = match query.first("n") {
            None => sizes.default,
            // What does not fit into a number is more than is allowed, too.
            Some(n) if n.bytes().all(|byte| byte.is_ascii_digit()) => n.parse().unwrap_or(usize::MAX),
            Some(n) => return Err(ApiError::PaginationNumberInvalid(n.chars().take(32).collect())),
        };
        Ok(Self { limit: limit.min(sizes.most), last: query.first("last").map(Into::into) })
    }

    /// The `Link` to the page that follows one of `list` that ends with `last`.
    pub fn next_link(&self, path: &str, list: &Endpoint, last: &str) -> HeaderValue {
        next_link(path, list, &[("last", last), ("n", &self.limit.to_string())])
    }
}

/// A `Link` (RFC 8288) to the page of `list` with these parameters. It is a path, which begins with `path` (nothing, or what the API
/// lies below), so that it holds behind any proxy.
pub fn next_link(path: &str, list: &Endpoint, parameters: &[(&str, &str)]) -> HeaderValue {
    let parameters: Vec<_> = parameters
        .iter()
        .map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, RESERVED)))
        .collect();
    HeaderValue::try_from(format!("<{path}{list}?{}>; rel=\"next\"", parameters.join("&")))
        .expect("paths and percent-encoded text are visible ASCII characters")
}

#[cfg(test)]
mod tests {
    use axum::http::Uri;
    use proptest::prelude::*;

    use super::*;

    const SIZES: PageSizes = PageSizes { default: 100, most: 1000 };

    fn parse(query: &str) -> Result<PageRequest, ApiError> {
        PageRequest::parse(Query::of(&format!("/v2/_catalog?{query}").parse::<Uri>().unwrap()), SIZES)
    }

    fn tags() -> Endpoint {
        Endpoint::Tags { repository: "team/app".parse().unwrap() }
    }

    #[test]
    fn n_is_clamped_and_never_refused_for_its_size() {
        for (query, limit) in [
            ("", 100),
            ("n=", 100),
            ("n=0", 0),
            ("n=1", 1),
            ("n=007", 7),
            ("n=1000", 1000),
            ("n=1001", 1000),
            ("n=1000000000000", 1000),
            ("n=99999999999999999999999999", 1000),
        ] {
            assert_eq!(parse(query).unwrap().limit, limit, "{query}");
        }
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for query in ["n=-1", "n=abc", "n=1.5", "n=%2B1", "n=+1", "n=0x10", "n=%D9%A1", "n=%20"] {
            assert!(matches!(parse(query), Err(ApiError::PaginationNumberInvalid(_))), "{query}");
        }
    }

    #[test]
    fn last_is_taken_as_it_is() {
        assert_eq!(parse("last=no%20such%2Ftag").unwrap().last.as_deref(), Some("no such/tag"));
        assert_eq!(parse("last=&n=3").unwrap().last, None);
    }

    #[test]
    fn the_link_is_relative_and_escaped() {
        let page = parse("n=5000").unwrap();
        assert_eq!(
            page.next_link("", &tags(), "v1.0-rc_1"),
            "</v2/team/app/tags/list?last=v1.0-rc_1&n=1000>; rel=\"next\""
        );
        assert_eq!(
            next_link(
                "/images",
                &Endpoint::Catalog,
                &[("artifactType", "a/b+json; x=\"1\">\r\n"), ("last", "sha256:ab")]
            ),
            "</images/v2/_catalog?artifactType=a%2Fb%2Bjson%3B%20x%3D%221%22%3E%0D%0A&last=sha256%3Aab>; rel=\"next\""
        );
    }

    proptest! {
        #[test]
        fn the_link_leads_to_what_follows(last in "\\PC{1,40}", limit in 1_usize..1000) {
            let page = PageRequest { limit, last: None };
            let link = page.next_link("", &tags(), &last);
            let target = link.to_str().unwrap().split(['<', '>']).nth(1).unwrap().parse::<Uri>().unwrap();
            prop_assert_eq!(target.path(), tags().to_string());
            prop_assert_eq!(PageRequest::parse(Query::of(&target), SIZES).unwrap(), PageRequest { limit, last: Some(last) });
        }
    }
}
