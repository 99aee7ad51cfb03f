//! What has to go on for what is known to stay current.

use std::fmt;

use futures_util::future::BoxFuture;

/// Goes on for ever beside all else, in a task of its own. It can be begun anew whenever it broke off.
pub struct Upkeep {
    what: &'static str,
    begin: Box<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>,
}

impl Upkeep {
    pub(crate) fn new<F>(what: &'static str, begin: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self { what, begin: Box::new(move || Box::pin(begin())) }
    }

    /// What it keeps current, for messages.
    pub fn what(&self) -> &'static str {
        self.what
    }

    /// Begins it, from the beginning. It should not run twice at once.
    pub fn begin(&self) -> BoxFuture<'static, ()> {
        (self.begin)()
    }
}

impl fmt::Debug for Upkeep {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Upkeep").field(&self.what).finish()
    }
}
