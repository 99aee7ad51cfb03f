//! The name of a repository, such as `team/app`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A repository's name by the grammar of the distribution specification 1.1: components of
/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`, joined by slashes, at most 255 bytes.
///
/// Names compare as their bytes do. Cloning is cheap.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RepositoryName(Arc<str>);

/// Why a text is not a [`RepositoryName`].
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RepositoryNameError {
    /// There is no text.
    #[error("a repository name cannot be empty")]
    Empty,
    /// The name is longer than clients can handle.
    #[error("a repository name has at most {} bytes, this has {bytes}", RepositoryName::MAX_BYTES)]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// A component is empty: the name begins or ends with a slash, or has two in a row.
    #[error("a component of the repository name is empty at byte {at}")]
    EmptyComponent {
        /// Where the component would begin.
        at: usize,
    },
    /// A character may not stand in a name at all.
    #[error(
        "{character:?} at byte {at} of the repository name: only lower-case letters, digits and . _ - / may be used"
    )]
    Character {
        /// The character.
        character: char,
        /// Where it stands.
        at: usize,
    },
    /// A component begins or ends with a separator, or there are more in a row than may be.
    #[error(
        "{separator:?} at byte {at} of the repository name: letters or digits must stand around one '.', one or two '_', or any number of '-'"
    )]
    Separator {
        /// The characters between (or before, or after) the letters and digits.
        separator: String,
        /// Where they begin.
        at: usize,
    },
}

impl RepositoryName {
    /// How long a name may be: what the Docker reference library takes.
    pub const MAX_BYTES: usize = 255;

    /// Returns the whole name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the first component, which is the Kubernetes namespace that the repository belongs to.
    pub fn namespace(&self) -> &str {
        self.0.split_once('/').map_or(&self.0, |(namespace, _)| namespace)
    }

    /// Returns what follows the first component.
    pub fn image(&self) -> Option<&str> {
        self.0.split_once('/').map(|(_, image)| image)
    }
}

impl FromStr for RepositoryName {
    type Err = RepositoryNameError;

    fn from_str(text: &str) -> Result<Self, RepositoryNameError> {
        if text.is_empty() {
            return Err(RepositoryNameError::Empty);
        }
        if text.len() > Self::MAX_BYTES {
            return Err(RepositoryNameError::TooLong { bytes: text.len() });
        }
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-_/".contains(c);
        if let Some((at, character)) = text.char_indices().find(|(_, c)| !allowed(*c)) {
            return Err(RepositoryNameError::Character { character, at });
        }
        let mut at = 0;
        for component in text.split('/') {
            check_component(component, at)?;
            at += component.len() + 1;
        }
        Ok(Self(text.into()))
    }
}

/// Checks one component, which holds only allowed characters, and begins at byte `start` of the name.
fn check_component(component: &str, start: usize) -> Result<(), RepositoryNameError> {
    if component.is_empty() {
        return Err(RepositoryNameError::EmptyComponent { at: start });
    }
    let is_separator = |c: char| ".-_".contains(c);
    let mut at = 0;
    while let Some(length) = component[at..].find(is_separator) {
        let from = at + length;
        let rest = &component[from..];
        let separator = &rest[..rest.find(|c| !is_separator(c)).unwrap_or(rest.len())];
        let between = from > 0 && separator.len() < rest.len();
        let well_formed = matches!(separator, "." | "_" | "__") || separator.bytes().all(|b| b == b'-');
        if !between || !well_formed {
            return Err(RepositoryNameError::Separator { separator: separator.to_owned(), at: start + from });
        }
        at = from + separator.len();
    }
    Ok(())
}

impl AsRef<str> for RepositoryName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn error(text: &str) -> RepositoryNameError {
        text.parse::<RepositoryName>().expect_err(text)
    }

    #[test]
    fn names_follow_the_grammar_of_1_1() {
        for good in [
            "a",
            "0",
            "a/b",
            "a/b/c/d/e",
            "a.b",
            "a_b",
            "a__b",
            "a-b",
            "a---b",
            "a.b_c__d-e--f",
            "tags",
            "x/manifests",
            "a/blobs/uploads",
            "tags/list",
            "0/1/2",
        ] {
            assert_eq!(good.parse::<RepositoryName>().expect(good).as_str(), good);
        }
        let longest = "a".repeat(255);
        assert_eq!(longest.parse::<RepositoryName>().unwrap().as_str(), longest);
    }

    #[test]
    fn an_error_says_what_is_wrong_and_where() {
        let separator =
            |separator: &str, at| RepositoryNameError::Separator { separator: separator.into(), at };
        assert_eq!(error(""), RepositoryNameError::Empty);
        assert_eq!(error(&"a".repeat(256)), RepositoryNameError::TooLong { bytes: 256 });
        assert_eq!(error("a//b"), RepositoryNameError::EmptyComponent { at: 2 });
        assert_eq!(error("/a"), RepositoryNameError::EmptyComponent { at: 0 });
        assert_eq!(error("a/"), RepositoryNameError::EmptyComponent { at: 2 });
        assert_eq!(error("A/b"), RepositoryNameError::Character { character: 'A', at: 0 });
        assert_eq!(error("a/é"), RepositoryNameError::Character { character: 'é', at: 2 });
        assert_eq!(error("a/b\0"), RepositoryNameError::Character { character: '\0', at: 3 });
        assert_eq!(error("-a"), separator("-", 0));
        assert_eq!(error("a/b-"), separator("-", 3));
        assert_eq!(error("a/.."), separator("..", 2));
        assert_eq!(error("a..b"), separator("..", 1));
        assert_eq!(error("a___b"), separator("___", 1));
        assert_eq!(error("ok/a._b"), separator("._", 4));
        assert_eq!(error("_catalog"), separator("_", 0));
    }

    #[test]
    fn the_first_component_is_the_namespace() {
        let name: RepositoryName = "team/app/web".parse().unwrap();
        assert_eq!((name.namespace(), name.image()), ("team", Some("app/web")));
        let name: RepositoryName = "alone".parse().unwrap();
        assert_eq!((name.namespace(), name.image()), ("alone", None));
    }

    #[test]
    fn names_come_in_byte_order() {
        let mut names = ["a/b", "a", "a-b", "a.b", "a0"].map(|name| name.parse::<RepositoryName>().unwrap());
        names.sort();
        assert_eq!(names.each_ref().map(RepositoryName::as_str), ["a", "a-b", "a.b", "a/b", "a0"]);
    }

    proptest! {
        #[test]
        fn whatever_the_grammar_makes_is_a_name(
            text in "[a-z0-9]{1,4}((\\.|_|__|-{1,3})[a-z0-9]{1,4}){0,3}(/[a-z0-9]{1,4}((\\.|_|__|-{1,3})[a-z0-9]{1,4}){0,3}){0,3}"
        ) {
            let name: RepositoryName = text.parse().expect("the grammar is the specification's");
            prop_assert_eq!(name.to_string(), &text[..]);
            let joined = match name.image() {
                Some(image) => format!("{}/{image}", name.namespace()),
                None => name.namespace().to_owned(),
            };
            prop_assert_eq!(joined, text);
        }

        #[test]
        fn no_text_makes_it_panic(text in "[a-b._/-]{0,12}|\\PC{0,40}") {
            // What is taken can be a path below a folder, whatever else it is.
            if let Ok(name) = text.parse::<RepositoryName>() {
                prop_assert!(name.as_str().split('/').all(|part| !part.is_empty() && !part.starts_with(['.', '_', '-'])));
            }
        }
    }
}
