//! What is wrong with a configuration, told so that it can be put right: file and line or variable, key, what it is
//! and what it should be.

use std::fmt;

use super::document::Origin;

/// One thing that is wrong, or that is worth a warning.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    /// Where it was written.
    pub origin: Origin,
    /// The key, as in `http.tls.key`; empty if it is about the whole.
    pub key: String,
    /// What is wrong, and what to do.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Origin::Default => {}
            Origin::File { .. } | Origin::Environment(_) => write!(formatter, "{}: ", self.origin)?,
        }
        if !self.key.is_empty() {
            write!(formatter, "{}: ", self.key)?;
        }
        formatter.write_str(&self.what)
    }
}

/// Everything that is wrong with a configuration, a line for each.
#[derive(Debug)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, problem) in self.0.iter().enumerate() {
            let separator = if position == 0 { "" } else { "\n" };
            write!(formatter, "{separator}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
