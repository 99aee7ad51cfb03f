//! The parameters behind the `?` of a request's URL.
//!
//! A `+` stays a plus, unlike in HTML forms: nothing that the API takes may contain a space, but media types and digest
//! algorithms may contain a plus, and people type them unescaped.

use std::borrow::Cow;

use axum::http::Uri;
use percent_encoding::percent_decode_str;

/// A query as it was sent. Names and values are decoded when they are read; bytes that are not UTF-8 become U+FFFD,
/// which no grammar of the API accepts.
#[derive(Clone, Copy, Debug)]
pub struct Query<'r>(&'r str);

impl<'r> Query<'r> {
    /// The query of a request's URL: empty if there is none.
    pub fn of(uri: &'r Uri) -> Self {
        Self(uri.query().unwrap_or_default())
    }

    /// The first value of `name`, unless it is empty or missing.
    pub fn first(self, name: &str) -> Option<Cow<'r, str>> {
        self.all(name).next()
    }

    /// Every value of `name` that is not empty, in order.
    pub fn all(self, name: &str) -> impl Iterator<Item = Cow<'r, str>> {
        self.0.split('&').filter_map(move |pair| {
            let (key, value) = pair.split_once('=')?;
            let found = !value.is_empty() && percent_decode_str(key).eq(name.bytes());
            found.then(|| percent_decode_str(value).decode_utf8_lossy())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_and_decoded_once() {
        let query = Query("digest=sha256%3Aab&n=&n=5&tag=a&tag=b&%74ag=c&x=%2525&bad=%ff%zz&flag&y=1=2");
        assert_eq!(query.first("digest").as_deref(), Some("sha256:ab"));
        assert_eq!(query.first("n").as_deref(), Some("5"));
        assert_eq!(query.all("tag").collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(query.first("x").as_deref(), Some("%25"));
        assert_eq!(query.first("bad").as_deref(), Some("\u{fffd}%zz"));
        assert_eq!(query.first("y").as_deref(), Some("1=2"));
        assert_eq!(query.first("flag"), None);
        assert_eq!(query.first("absent"), None);
        assert_eq!(Query::of(&Uri::from_static("/v2/")).first("n"), None);
    }

    #[test]
    fn a_plus_stays_a_plus() {
        assert_eq!(Query("artifactType=a/b+json").first("artifactType").as_deref(), Some("a/b+json"));
        assert_eq!(Query("artifactType=a%2Fb%2Bjson").first("artifactType").as_deref(), Some("a/b+json"));
    }
}
