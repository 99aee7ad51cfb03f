//! What a caller shows to say who they are.

use std::fmt;

/// Text that must never be seen: in `Debug` it is `[redacted]`, and it has no `Display`.
#[derive(Clone, Eq, PartialEq)]
pub struct Secret(String);

impl Secret {
    /// Keeps `text` from being shown.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for whoever compares it or passes it on.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[redacted]")
    }
}

/// One credential. That there is none is not among them: such a caller is [`crate::Identity::anonymous`].
#[derive(Clone, Debug)]
pub enum Credential {
    /// A user name and a password, which may be a token: then the name says nothing.
    Password {
        /// The name as the caller typed it.
        user: String,
        /// The password, or a token.
        password: Secret,
    },
    /// A token by itself.
    Token(Secret),
    /// The subject of a client certificate that the TLS handshake has verified.
    Certificate {
        /// `CN`: the user.
        common_name: String,
        /// `O`: the groups.
        organizations: Vec<String>,
    },
    /// What stands where a credential should and cannot be read as one, as it was sent. Nobody knows it, and whoever shows it has
    /// failed like whoever shows a wrong one.
    Unreadable(Secret),
}

impl Credential {
    /// What may be a token: the one that was shown, or the password.
    pub fn token(&self) -> Option<&Secret> {
        match self {
            Self::Password { password, .. } => Some(password),
            Self::Token(token) => Some(token),
            Self::Certificate { .. } | Self::Unreadable(_) => None,
        }
    }
}
