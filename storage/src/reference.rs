//! What a manifest is asked for by: a tag or a digest.

use std::fmt;
use std::str::FromStr;

use crate::{Digest, DigestError, Tag, TagError};

/// A tag or a digest. What contains a colon is a digest, since no tag can.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Reference {
    /// A name that may point elsewhere tomorrow.
    Tag(Tag),
    /// The content itself.
    Digest(Digest),
}

/// Why a text is not a [`Reference`].
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ReferenceError {
    /// It has no colon, and is no tag.
    #[error(transparent)]
    Tag(#[from] TagError),
    /// It has a colon, and is no digest.
    #[error(transparent)]
    Digest(#[from] DigestError),
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if text.contains(':') { Ok(Self::Digest(text.parse()?)) } else { Ok(Self::Tag(text.parse()?)) }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Algorithm;

    #[test]
    fn a_colon_makes_a_digest() {
        let digest = Digest::of(Algorithm::Sha256, b"");
        assert_eq!(digest.to_string().parse(), Ok(Reference::Digest(digest)));
        let fallback_tag = format!("sha256-{}", digest.hex());
        assert_eq!(fallback_tag.parse(), Ok(Reference::Tag(fallback_tag.parse().unwrap())));
        assert!(matches!("latest:1".parse::<Reference>(), Err(ReferenceError::Digest(_))));
        assert!(matches!("".parse::<Reference>(), Err(ReferenceError::Tag(TagError::Empty))));
    }

    proptest! {
        #[test]
        fn a_reference_survives_its_text(text in "[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}|sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}") {
            let reference: Reference = text.parse().expect("the grammar is the specification's");
            prop_assert_eq!(matches!(reference, Reference::Digest(_)), text.contains(':'));
            prop_assert_eq!(reference.to_string(), text);
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,140}") {
            let _ = text.parse::<Reference>();
        }
    }
}
