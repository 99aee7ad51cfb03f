//! A store that fails when it is told to: one call of many, before or after it took effect, or every call from one on.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::around::{Around, Verb};
use super::{BackendError, Fault};

/// Makes calls that it stands around fail, and remembers which there were.
#[derive(Debug, Default)]
pub struct Faults(Mutex<Plan>);

/// How a call fails.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Failure {
    /// What the caller is told.
    pub fault: Fault,
    /// Whether the call was done nevertheless.
    pub moment: Moment,
}

/// When a call fails.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Moment {
    /// Before anything was done.
    Before,
    /// When all was done: the answer was lost.
    After,
}

#[derive(Debug, Default)]
struct Plan {
    calls: Vec<Verb>,
    failing: Option<Failing>,
}

#[derive(Clone, Copy, Debug)]
struct Failing {
    from: usize,
    failure: Failure,
    lasting: bool,
}

impl Faults {
    /// Lets one call fail: the first of those that follow when `call` is 0.
    pub fn fail(&self, call: usize, failure: Failure) {
        self.plan(call, failure, false);
    }

    /// Lets every call fail from this one on, until [`Faults::heal`].
    pub fn fail_from(&self, call: usize, failure: Failure) {
        self.plan(call, failure, true);
    }

    /// Lets every call succeed again, and answers those that there were since the last plan was made, in their order.
    pub fn heal(&self) -> Vec<Verb> {
        std::mem::take(&mut *self.lock()).calls
    }

    fn plan(&self, from: usize, failure: Failure, lasting: bool) {
        *self.lock() = Plan { calls: Vec::new(), failing: Some(Failing { from, failure, lasting }) };
    }

    fn lock(&self) -> MutexGuard<'_, Plan> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Around for Faults {
    async fn around<T: Send>(
        &self,
        verb: Verb,
        call: impl Future<Output = Result<T, BackendError>> + Send,
    ) -> Result<T, BackendError> {
        let failure = {
            let mut plan = self.lock();
            let at = plan.calls.len();
            plan.calls.push(verb);
            let hit = |failing: &Failing| at == failing.from || failing.lasting && at > failing.from;
            plan.failing.filter(hit).map(|failing| failing.failure)
        };
        let Some(failure) = failure else { return call.await };
        if failure.moment == Moment::After {
            call.await?;
        }
        Err(BackendError::of(verb.as_str(), "a store that was told to fail", failure.fault))
    }
}
