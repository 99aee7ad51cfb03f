//! The headers that make a pull or a change depend on what is there, `If-Match` and `If-None-Match`, and those that ask for a part of it:
//! `Range` and `If-Range`.
//!
//! The entity tag of everything that is pulled is its digest in quotes; there is no modification date.

use std::{iter, str};

use axum::http::{HeaderMap, HeaderValue, header};
use storage::Digest;

use crate::api::blobs::range::Selection;

/// What one request asks about the content it pulls or changes.
#[derive(Clone, Debug, Default)]
pub struct Conditions {
    if_match: Vec<HeaderValue>,
    if_none_match: Vec<HeaderValue>,
    if_range: Option<HeaderValue>,
    range: Option<HeaderValue>,
}

/// What the conditions make of a request for content that is there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// It is to be answered, or done, as without them.
    Perform,
    /// The client has the content already. A pull is answered with 304; a change is refused with 412.
    NotModified,
    /// The content is not what the client takes it for: 412 is the answer.
    Failed,
}

impl Conditions {
    /// Takes the conditions out of a request's headers.
    pub fn of(headers: &HeaderMap) -> Self {
        let all = |name| headers.get_all(name).iter().cloned().collect();
        Self {
            if_match: all(header::IF_MATCH),
            if_none_match: all(header::IF_NONE_MATCH),
            if_range: headers.get(header::IF_RANGE).cloned(),
            range: headers.get(header::RANGE).cloned(),
        }
    }

    /// What becomes of a request while the content is `current`, judged in the order of RFC 9110 §13.2.2.
    pub fn outcome(&self, current: &Digest) -> Outcome {
        let mut tags = self.if_match.iter().flat_map(EntityTag::list);
        let matches =
            self.if_match.is_empty() || tags.any(|tag| tag.is_any() || tag.is(current) && !tag.weak);
        if !matches {
            Outcome::Failed
        } else if self.not_modified(current) {
            Outcome::NotModified
        } else {
            Outcome::Perform
        }
    }

    /// Whether the client has the content already, so that 304 is the answer (RFC 9110 §13.1.2).
    fn not_modified(&self, digest: &Digest) -> bool {
        let mut tags = self.if_none_match.iter().flat_map(EntityTag::list);
        tags.any(|tag| tag.is_any() || tag.is(digest))
    }

    /// Whether a change depends on what is there.
    pub fn are_on_change(&self) -> bool {
        !self.if_match.is_empty() || !self.if_none_match.is_empty()
    }

    /// Whether a change may be made while the content is `current`, or there is none; otherwise 412 is the answer (RFC 9110 §13.1.1,
    /// §13.1.2).
    pub fn allow_change(&self, current: Option<&Digest>) -> bool {
        current.map_or(self.if_match.is_empty(), |current| self.outcome(current) == Outcome::Perform)
    }

    /// Which bytes of the content to send to a `GET`. `If-Range` holds only if it is this very digest: a weak tag or a
    /// date (RFC 9110 §13.1.5) never is, and then the content is sent whole.
    pub fn select(&self, digest: &Digest, size_bytes: u64) -> Selection {
        let Some(range) = &self.range else { return Selection::Whole };
        let unchanged = match &self.if_range {
            None => true,
            Some(value) => EntityTag::list(value).next().is_some_and(|tag| tag.is(digest) && !tag.weak),
        };
        if unchanged { Selection::parse(range, size_bytes) } else { Selection::Whole }
    }
}

/// One element of a list of entity tags. CNCF distribution also takes a digest without quotes, and so does this.
struct EntityTag<'a> {
    weak: bool,
    quoted: bool,
    opaque: &'a str,
}

impl<'a> EntityTag<'a> {
    /// Reads a header to its end, or to the first thing that is no tag.
    fn list(header: &'a HeaderValue) -> impl Iterator<Item = Self> {
        let mut rest = str::from_utf8(header.as_bytes()).unwrap_or_default();
        iter::from_fn(move || {
            rest = rest.trim_start_matches([' ', '\t', ',']);
            let (weak, tag) = rest.strip_prefix("W/").map_or((false, rest), |tag| (true, tag));
            let (quoted, opaque, behind) = match tag.strip_prefix('"') {
                Some(tag) => tag.split_once('"').map(|(opaque, behind)| (true, opaque, behind))?,
                None => {
                    let (opaque, behind) = tag.split_at(tag.find(',').unwrap_or(tag.len()));
                    (false, opaque.trim_end(), behind)
                }
            };
            rest = behind;
            (quoted || !opaque.is_empty()).then_some(Self { weak, quoted, opaque })
        })
    }

    fn is_any(&self) -> bool {
        self.opaque == "*" && !self.quoted
    }

    fn is(&self, digest: &Digest) -> bool {
        self.opaque.parse().as_ref() == Ok(digest)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use storage::Algorithm;

    use super::*;

    fn entity_tag(digest: &Digest) -> HeaderValue {
        HeaderValue::try_from(format!("\"{digest}\"")).unwrap()
    }

    fn digest() -> Digest {
        Digest::of(Algorithm::Sha256, b"content")
    }

    fn other() -> Digest {
        Digest::of(Algorithm::Sha256, b"other content")
    }

    fn conditions(headers: &[(header::HeaderName, &str)]) -> Conditions {
        let headers =
            headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap()));
        Conditions::of(&headers.collect())
    }

    fn not_modified(if_none_match: &str) -> bool {
        conditions(&[(header::IF_NONE_MATCH, if_none_match)]).not_modified(&digest())
    }

    #[test]
    fn content_that_the_client_has_is_not_modified() {
        let (digest, other) = (digest(), other());
        for header in [
            format!("\"{digest}\""),
            format!("W/\"{digest}\""),
            digest.to_string(),
            format!(" {digest} "),
            "*".to_owned(),
            format!("\"{other}\", W/\"{digest}\""),
            format!("\"{other}\",,\t\"{digest}\" ,"),
            format!("{other},{digest}"),
            format!("\"a,b\", \"{digest}\""),
        ] {
            assert!(not_modified(&header), "{header}");
        }
    }

    #[test]
    fn content_that_the_client_lacks_is_sent() {
        let (digest, other) = (digest(), other());
        for header in [
            String::new(),
            ",".to_owned(),
            "W/".to_owned(),
            "\"*\"".to_owned(),
            "\"\"".to_owned(),
            format!("\"{other}\""),
            format!("\"{digest}"),
            format!("\"x,{digest},y\""),
            format!("\"{}\"", digest.to_string().to_uppercase()),
        ] {
            assert!(!not_modified(&header), "{header}");
        }
        assert!(!conditions(&[]).not_modified(&digest));
    }

    #[test]
    fn the_lines_of_a_repeated_header_are_one_list() {
        let mut headers = HeaderMap::new();
        headers.append(header::IF_NONE_MATCH, entity_tag(&other()));
        headers.append(header::IF_NONE_MATCH, entity_tag(&digest()));
        assert!(Conditions::of(&headers).not_modified(&digest()));
    }

    #[test]
    fn a_range_counts_only_while_if_range_holds() {
        let (digest, other) = (digest(), other());
        let whole = |headers: &[(header::HeaderName, &str)]| {
            conditions(headers).select(&digest, 100) == Selection::Whole
        };
        let range = (header::RANGE, "bytes=1-2");
        let out_of_reach = (header::RANGE, "bytes=200-");
        assert!(whole(&[]));
        assert!(whole(&[(header::IF_RANGE, &format!("\"{digest}\""))]));
        assert!(!whole(std::slice::from_ref(&range)));
        assert!(!whole(&[range.clone(), (header::IF_RANGE, &format!("\"{digest}\""))]));
        for stale in [
            format!("\"{other}\""),
            format!("W/\"{digest}\""),
            "Wed, 21 Oct 2026 07:28:00 GMT".to_owned(),
            String::new(),
        ] {
            assert!(whole(&[range.clone(), (header::IF_RANGE, &stale)]), "{stale}");
            assert!(whole(&[out_of_reach.clone(), (header::IF_RANGE, &stale)]), "{stale}");
        }
    }

    #[test]
    fn a_change_depends_on_what_is_there() {
        let (digest, other) = (digest(), other());
        let quoted = |digest: &Digest| format!("\"{digest}\"");
        let (this, that) = (quoted(&digest), quoted(&other));
        for (name, value, over_this, over_nothing) in [
            (header::IF_MATCH, "*", true, false),
            (header::IF_MATCH, &this, true, false),
            (header::IF_MATCH, &format!("{that}, {this}"), true, false),
            (header::IF_MATCH, &digest.to_string(), true, false),
            (header::IF_MATCH, &format!("W/{this}"), false, false),
            (header::IF_MATCH, &that, false, false),
            (header::IF_MATCH, "", false, false),
            (header::IF_NONE_MATCH, "*", false, true),
            (header::IF_NONE_MATCH, &this, false, true),
            (header::IF_NONE_MATCH, &that, true, true),
        ] {
            let conditions = conditions(&[(name.clone(), value)]);
            assert!(conditions.are_on_change());
            assert_eq!(conditions.allow_change(Some(&digest)), over_this, "{name}: {value}");
            assert_eq!(conditions.allow_change(None), over_nothing, "{name}: {value}");
        }
        assert!(!conditions(&[]).are_on_change());
        assert!(conditions(&[]).allow_change(Some(&digest)) && conditions(&[]).allow_change(None));
    }

    #[test]
    fn if_match_is_judged_before_if_none_match() {
        let (digest, other) = (digest(), other());
        let (this, that) = (format!("\"{digest}\""), format!("\"{other}\""));
        let weak = format!("W/{this}");
        for (if_match, if_none_match, outcome) in [
            (None, None, Outcome::Perform),
            (None, Some(&*that), Outcome::Perform),
            (None, Some(&*this), Outcome::NotModified),
            (None, Some("*"), Outcome::NotModified),
            (Some("*"), None, Outcome::Perform),
            (Some(&*this), None, Outcome::Perform),
            (Some(&*this), Some(&*that), Outcome::Perform),
            (Some(&*this), Some(&*this), Outcome::NotModified),
            (Some(&*that), None, Outcome::Failed),
            (Some(&*weak), None, Outcome::Failed),
            (Some(&*that), Some(&*that), Outcome::Failed),
            (Some(&*that), Some(&*this), Outcome::Failed),
        ] {
            let headers = [(header::IF_MATCH, if_match), (header::IF_NONE_MATCH, if_none_match)];
            let headers: Vec<_> =
                headers.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
            assert_eq!(conditions(&headers).outcome(&digest), outcome, "{headers:?}");
        }
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let Ok(value) = HeaderValue::from_bytes(&bytes) else { return Ok(()) };
            let names = [header::IF_MATCH, header::IF_NONE_MATCH, header::IF_RANGE, header::RANGE];
            let headers = names.map(|name| (name, value.clone()));
            let conditions = Conditions::of(&headers.into_iter().collect());
            conditions.outcome(&digest());
            conditions.allow_change(Some(&digest()));
            conditions.select(&digest(), 10);
        }
    }
}
