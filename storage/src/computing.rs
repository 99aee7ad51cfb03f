//! Work that keeps a processor busy, such as hashing megabytes: done where it holds nobody up.

use std::fmt::Display;

use crate::backend::BackendError;

/// Below this size, doing it here costs less than handing it to another thread.
const IN_PLACE_BYTES: usize = 32 << 10;

/// What `work` makes of so many bytes. If it fails, that was to `operation` the thing `place`.
pub(crate) async fn computed<T: Send + 'static>(
    operation: &'static str,
    place: impl Display,
    bytes: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, BackendError> {
    if bytes <= IN_PLACE_BYTES {
        return Ok(work());
    }
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| BackendError::io(operation, place, error.into()))
}
