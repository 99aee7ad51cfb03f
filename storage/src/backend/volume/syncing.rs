//! Folders on their way to the disk, all at once: together they take it hardly longer than one of them.

use std::io;
use std::path::Path;
use std::sync::Arc;

use tokio::task::{JoinHandle, spawn_blocking};

use super::ended;
use super::files::{Files, Way};
use crate::backend::BackendError;

/// A way that is being synced.
#[derive(Debug)]
#[must_use = "it is durable when it has ended"]
pub(super) struct Syncing {
    files: Arc<Files>,
    way: Way,
    here: io::Result<()>,
    others: Vec<JoinHandle<io::Result<()>>>,
}

impl Syncing {
    /// Begins with every folder. One is synced here, which blocks: the thread is there already, and most ways are short.
    pub(super) fn begin(files: &Arc<Files>, way: Way) -> Self {
        let mut folders = way.folders();
        let here = folders.next();
        let sync = |folder: &Path| {
            let (files, folder) = (files.clone(), folder.to_owned());
            spawn_blocking(move || files.sync_folder(&folder))
        };
        let others = folders.map(sync).collect();
        let here = here.map_or(Ok(()), |folder| files.sync_folder(folder));
        Self { files: files.clone(), way, here, others }
    }

    /// Waits for all of it, also when some has failed: nothing goes on after the answer.
    pub(super) async fn end(self, operation: &'static str, place: &str) -> Result<(), BackendError> {
        let mut synced = self.here.map_err(|error| BackendError::io(operation, place, error));
        for other in self.others {
            synced = synced.and(ended(operation, place, other).await);
        }
        synced?;
        self.files.way_is_synced(self.way);
        Ok(())
    }
}
