//! Keeps runtime threads from waiting for a disk: asks whether parts of a file are in memory, and has them brought in.
//!
//! The question is put by `cachestat`, and where the kernel has none (before 6.5) by reading single bytes with
//! `RWF_NOWAIT`, which it answers without waiting since 4.14. Samples are enough there: readahead brings in whole
//! windows, and a page missed between two samples costs one short wait, not a wrong answer.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rustix::fs::Advice;
use rustix::io::ReadWriteFlags;
use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;

/// How many parts of files are brought in at once, in the whole process: enough to keep disks busy.
const READERS: usize = 16;

/// The distance between sampled bytes; the kernel's readahead windows are at least as large.
const SAMPLE_BYTES: usize = 64 * 1024;

static READER_PERMITS: Semaphore = Semaphore::const_new(READERS);

/// Begins to bring a part of a file into memory and gives the task to wait for; `None` if it is there already.
/// Dropping the task gives up its place in the queue; a part that is being read has its place among the readers until it is there.
///
/// A failing disk is found by whoever reads next, not here.
pub(super) fn bring_in(file: &Arc<File>, offset: u64, length: u64) -> Option<AbortOnDropHandle<()>> {
    if is_resident(file, offset, length) {
        return None;
    }
    let file = Arc::clone(file);
    Some(AbortOnDropHandle::new(tokio::spawn(async move {
        let permit = READER_PERMITS.acquire().await;
        // Of no use any more once nobody waits for it.
        let reading = AbortOnDropHandle::new(tokio::task::spawn_blocking(move || {
            let _permit = permit;
            // Both are advice: whatever fails here fails again, and is reported, when the bytes are read.
            let _ = rustix::fs::fadvise(&file, offset, NonZeroU64::new(length), Advice::WillNeed);
            for sample in samples(offset, length) {
                let _ = file.read_at(&mut [0], sample);
            }
        }));
        let _ = reading.await;
    })))
}

/// Reads a part of a file if that takes no disk, and gives `None` if it would or if the filesystem cannot tell.
///
/// # Errors
/// What reading failed with, and [`io::ErrorKind::UnexpectedEof`] if the file ends before the part does.
pub(super) fn read_resident(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<Option<()>> {
    match read_now(file, buffer, offset) {
        Ok(0) if !buffer.is_empty() => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(read) => Ok((read == buffer.len()).then_some(())),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Unsupported) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Whether reading this part, which is not empty, needs no disk now. A filesystem that cannot tell counts as no.
fn is_resident(file: &File, offset: u64, length: u64) -> bool {
    let page = rustix::param::page_size() as u64;
    match storage::kernel::cached_pages(file, offset, length) {
        Ok(cached) => cached > (offset + length - 1) / page - offset / page,
        Err(_) => samples(offset, length).all(|sample| read_now(file, &mut [0], sample).is_ok()),
    }
}

fn samples(offset: u64, length: u64) -> impl Iterator<Item = u64> {
    let end = offset + length;
    (offset..end).step_by(SAMPLE_BYTES).chain(end.checked_sub(1))
}

fn read_now(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let read = rustix::io::preadv2(file, &mut [IoSliceMut::new(buffer)], offset, ReadWriteFlags::NOWAIT)?;
    Ok(read)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::mpsc;

    use super::*;

    /// A file of which nothing is in memory. It lies among the sources: those are on a disk where the temporary folder may not be.
    fn cold_file(length: usize) -> Arc<File> {
        let folder = env!("CARGO_MANIFEST_DIR");
        let mut file = tempfile::tempfile_in(folder).unwrap();
        file.write_all(&vec![1; length]).unwrap();
        file.sync_all().unwrap();
        rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).unwrap();
        assert!(
            !is_resident(&file, 0, length as u64),
            "{folder} is in memory, not on a disk: move the sources to one"
        );
        Arc::new(file)
    }

    #[test]
    fn what_nobody_waits_for_any_more_is_not_read() {
        let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
        runtime.block_on(async {
            let file = cold_file(1 << 20);
            // The only thread that reads is busy.
            let (done, busy) = mpsc::channel::<()>();
            let thread = tokio::task::spawn_blocking(move || busy.recv());
            let part = bring_in(&file, 0, 1 << 20).expect("it is not in memory");
            // Its turn among the readers comes, and it waits for the thread.
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            drop(part);
            tokio::task::yield_now().await;
            done.send(()).unwrap();
            thread.await.unwrap().unwrap();
            while Arc::strong_count(&file) > 1 {
                tokio::task::yield_now().await;
            }
            assert!(!is_resident(&file, 0, 1 << 20));
        });
    }
}
