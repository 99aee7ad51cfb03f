//! Where the events' lines go: among the other lines of the log, or into a file of their own.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Writes lines, each whole.
#[derive(Debug)]
pub(super) struct Output(Option<LogFile>);

impl Output {
    /// Standard error, where the rest of the log goes.
    pub(super) fn among_others() -> Self {
        Self(None)
    }

    /// A file, made if it is not there.
    pub(super) fn file(path: &Path) -> io::Result<Self> {
        Ok(Self(Some(LogFile { path: path.to_owned(), file: open(path)?, broken: false })))
    }

    /// Writes a line that ends with a newline. What the file does not take goes to standard error.
    pub(super) fn write(&mut self, line: &str) {
        let Some(log) = &mut self.0 else { return to_standard_error(line) };
        match log.append(line) {
            Ok(()) if log.broken => {
                log.broken = false;
                tracing::info!(path = %log.path.display(), "the audit log is written again");
            }
            Ok(()) => {}
            Err(error) => {
                if !log.broken {
                    log.broken = true;
                    let error = &error as &dyn std::error::Error;
                    let path = log.path.display();
                    tracing::error!(%path, error, "the audit log cannot be written: its events follow here");
                }
                to_standard_error(line);
            }
        }
    }
}

fn to_standard_error(line: &str) {
    let _ = io::stderr().write_all(line.as_bytes()); // There is nowhere left to complain.
}

#[derive(Debug)]
struct LogFile {
    path: PathBuf,
    file: File,
    /// Whether the last line was not written, or only its beginning.
    broken: bool,
}

impl LogFile {
    fn append(&mut self, line: &str) -> io::Result<()> {
        if self.was_moved_away() {
            self.file = open(&self.path)?;
        } else if self.broken {
            self.file.write_all(b"\n")?;
        }
        self.file.write_all(line.as_bytes())
    }

    /// Whether the path names another file by now, or none: that is how logs are rotated, and nobody need be told of it.
    fn was_moved_away(&self) -> bool {
        let (Ok(ours), Ok(there)) = (self.file.metadata(), self.path.metadata()) else { return true };
        (ours.dev(), ours.ino()) != (there.dev(), there.ino())
    }
}

/// Opens the file for its owner, and for its group to read.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o640).open(path)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_that_was_moved_away_is_begun_anew() {
        let folder = tempfile::tempdir().unwrap();
        let (path, old) = (folder.path().join("audit.log"), folder.path().join("audit.log.1"));
        let mut output = Output::file(&path).unwrap();
        output.write("one\n");
        fs::rename(&path, &old).unwrap();
        output.write("two\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "two\n");
        assert_eq!(path.metadata().unwrap().mode() & 0o007, 0, "not for others to read");
        fs::remove_file(&path).unwrap();
        // Made by whoever rotates.
        fs::write(&path, "").unwrap();
        output.write("three\n");
        drop(output);
        Output::file(&path).unwrap().write("four\n");
        assert_eq!(fs::read_to_string(old).unwrap(), "one\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "three\nfour\n");
    }

    #[test]
    fn what_the_file_does_not_take_is_not_mixed_with_what_it_takes_later() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let mut output = Output::file(&path).unwrap();
        output.write("one\n");
        // As a full disk does: the beginning of a line, then an error.
        let log = output.0.as_mut().unwrap();
        log.file.write_all(b"tw").unwrap();
        log.broken = true;
        output.write("three\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntw\nthree\n");
    }
}
