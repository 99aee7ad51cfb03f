//! Two system calls of Linux that neither std nor rustix has: what of a file is in memory, and the beginning of its way to disk.
//!
//! This is the only module with unsafe code.
#![expect(unsafe_code, reason = "the only system calls that are made without a library around them")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use linux_raw_sys::general::{__NR_cachestat, cachestat, cachestat_range};

/// How many pages of `length` bytes of a file, from `offset` on, are in the page cache or on their way into it.
///
/// # Errors
/// `ENOSYS` before Linux 6.5, `EPERM` for a file that the process may not write to, `EOPNOTSUPP` for one without a page cache.
pub fn cached_pages(file: &File, offset: u64, length: u64) -> io::Result<u64> {
    let range = cachestat_range { off: offset, len: length };
    let mut counts =
        cachestat { nr_cache: 0, nr_dirty: 0, nr_writeback: 0, nr_evicted: 0, nr_recently_evicted: 0 };
    let no_flags: libc::c_uint = 0;
    // SAFETY: both structures are the kernel's and outlive the call, which reads the one and writes to the other; the descriptor is open for as long as `file` is borrowed.
    let failed = unsafe {
        libc::syscall(
            libc::c_long::from(__NR_cachestat),
            file.as_raw_fd(),
            &raw const range,
            &raw mut counts,
            no_flags,
        )
    };
    if failed == 0 { Ok(counts.nr_cache) } else { Err(io::Error::last_os_error()) }
}

/// Has the kernel begin to write `length` bytes of a file, from `offset` on, to disk; it does not wait for the end, and
/// promises nothing: only a sync does.
///
/// # Errors
/// What the kernel says of the file, and [`io::ErrorKind::InvalidInput`] for a range that no file has.
pub(crate) fn begin_writing_out(file: &File, offset: u64, length: u64) -> io::Result<()> {
    let (Ok(offset), Ok(length)) = (offset.try_into(), length.try_into()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    // SAFETY: the call takes numbers only; the descriptor is open for as long as `file` is borrowed.
    let failed =
        unsafe { libc::sync_file_range(file.as_raw_fd(), offset, length, libc::SYNC_FILE_RANGE_WRITE) };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn what_was_just_written_is_in_memory_and_a_hole_is_not() {
        let mut file = tempfile::tempfile().unwrap();
        let page = rustix::param::page_size();
        file.write_all(&vec![1; 3 * page]).unwrap();
        begin_writing_out(&file, 0, 3 * page as u64).unwrap();
        file.set_len(100 * page as u64).unwrap();
        match cached_pages(&file, 0, 100 * page as u64) {
            Ok(pages) => assert_eq!(pages, 3),
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ENOSYS)),
        }
    }
}
