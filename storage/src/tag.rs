//! The name that people give a manifest, such as `latest`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A tag: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`. Tags compare as their bytes do. Cloning is cheap.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Tag(Arc<str>);

/// Why a text is not a [`Tag`].
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TagError {
    /// There is no text.
    #[error("a tag cannot be empty")]
    Empty,
    /// The tag is longer than the specification allows.
    #[error("a tag has at most {} bytes, this has {bytes}", Tag::MAX_BYTES)]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// A character may not stand where it does.
    #[error(
        "{character:?} at byte {at} of the tag: only letters, digits and _ may be used, and . and - after the first"
    )]
    Character {
        /// The character.
        character: char,
        /// Where it stands.
        at: usize,
    },
}

impl Tag {
    /// How long a tag may be.
    pub const MAX_BYTES: usize = 128;

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Tag {
    type Err = TagError;

    fn from_str(text: &str) -> Result<Self, TagError> {
        if text.is_empty() {
            return Err(TagError::Empty);
        }
        if text.len() > Self::MAX_BYTES {
            return Err(TagError::TooLong { bytes: text.len() });
        }
        let allowed =
            |at, c: char| c.is_ascii_alphanumeric() || c == '_' || (at > 0 && (c == '.' || c == '-'));
        match text.char_indices().find(|&(at, c)| !allowed(at, c)) {
            Some((at, character)) => Err(TagError::Character { character, at }),
            None => Ok(Self(text.into())),
        }
    }
}

impl AsRef<str> for Tag {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_follow_the_grammar() {
        let longest = "x".repeat(128);
        for good in ["latest", "v1.0-rc_1", "_", "__a", "0", "LIST", "list", longest.as_str()] {
            assert_eq!(good.parse::<Tag>().expect(good).as_str(), good);
        }
    }

    #[test]
    fn an_error_says_what_is_wrong_and_where() {
        let error = |text: &str| text.parse::<Tag>().expect_err(text);
        assert_eq!(error(""), TagError::Empty);
        assert_eq!(error(&"x".repeat(129)), TagError::TooLong { bytes: 129 });
        assert_eq!(error(".."), TagError::Character { character: '.', at: 0 });
        assert_eq!(error("-a"), TagError::Character { character: '-', at: 0 });
        assert_eq!(error("a/b"), TagError::Character { character: '/', at: 1 });
        assert_eq!(error("aé"), TagError::Character { character: 'é', at: 1 });
        assert_eq!(error("a\n"), TagError::Character { character: '\n', at: 1 });
    }
}
