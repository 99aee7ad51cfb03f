//! Lines on their way to standard error. A thread of their own writes them, so that nobody else waits for whoever reads them there.

use std::io::{self, Write};
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// So much may wait to be written; what comes on top is lost, and counted.
const WAITING_BYTES: usize = 4 << 20;

/// Lines that wait, and how many were lost.
#[derive(Debug)]
pub(super) struct Lines {
    waiting: Mutex<Waiting>,
    /// Something came to an idle writer, or a writer has written what it had.
    changed: Condvar,
    lost: AtomicU64,
}

#[derive(Debug)]
struct Waiting {
    bytes: Vec<u8>,
    /// Whether the writer has others in hand.
    is_writing: bool,
}

impl Lines {
    pub(super) const fn new() -> Self {
        Self {
            waiting: Mutex::new(Waiting { bytes: Vec::new(), is_writing: false }),
            changed: Condvar::new(),
            lost: AtomicU64::new(0),
        }
    }

    /// How many were lost.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Writes for ever what comes, as much at once as has come.
    pub(super) fn pass_on_to(&self, mut reader: impl Write) -> ! {
        let mut waiting = self.waiting();
        loop {
            waiting.is_writing = false;
            self.changed.notify_all();
            let came = self.changed.wait_while(waiting, |waiting| waiting.bytes.is_empty());
            waiting = came.unwrap_or_else(PoisonError::into_inner);
            waiting.is_writing = true;
            let bytes = mem::take(&mut waiting.bytes);
            drop(waiting);
            let _ = reader.write_all(&bytes); // There is nowhere left to complain.
            waiting = self.waiting();
        }
    }

    /// Returns once everything is written, or when it has waited so long.
    pub(super) fn flush(&self, patience: Duration) {
        let is_left = |waiting: &mut Waiting| waiting.is_writing || !waiting.bytes.is_empty();
        let _ = self.changed.wait_timeout_while(self.waiting(), patience, is_left); // What is left is lost.
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for &Lines {
    /// Takes a line whole, or loses it.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut waiting = self.waiting();
        if waiting.bytes.len() + line.len() > WAITING_BYTES {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return Ok(line.len());
        }
        let is_idle = waiting.bytes.is_empty() && !waiting.is_writing;
        waiting.bytes.extend_from_slice(line);
        drop(waiting);
        if is_idle {
            self.changed.notify_all();
        }
        Ok(line.len())
    }

    /// Does nothing: nobody may wait.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
