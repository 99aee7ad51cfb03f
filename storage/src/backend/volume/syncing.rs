//! Folders on their way to the disk, all at once: together they take it hardly longer than one of them.

use std::io;
use std::path::PathBuf;
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
    others: Vec<JoinHandle<io::Result<()>>>,
}

impl Syncing {
    /// Begins with every folder. One is synced here, which blocks: the thread is there already, and most ways are short.
    pub(super) fn begin(files: &Arc<Files>, way: Way) -> io::Result<Self> {
        let mut folders = way.folders().iter();
        let here = folders.next();
        let sync = |folder: &PathBuf| {
            let (files, folder) = (files.clone(), folder.clone());
            spawn_blocking(move || files.sync_folder(&folder))
        };
        let others = folders.map(sync).collect();
        here.map_or(Ok(()), |folder| files.sync_folder(folder))?;
        Ok(Self { files: files.clone(), way, others })
    }

    /// Waits for the rest of it.
    pub(super) async fn end(self, operation: &'static str, place: &str) -> Result<(), BackendError> {
        for other in self.others {
            ended(operation, place, other).await?;
        }
        self.files.way_is_synced(self.way);
        Ok(())
    }
}
