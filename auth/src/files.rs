//! Files that are read again when they change, also by the swap of a symlink, which is how Kubernetes renews a mounted
//! secret. A change that cannot be used is said once, and the last good contents stay.

use std::fmt;
use std::io::{self, Read as _};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// The size up to which a file is read, in bytes.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// Why a file cannot be used. Neither variant shows any of its contents.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It was read, and is not what it should be.
    #[error("{}: {problem}", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where in the file.
        problem: String,
    },
}

/// All files that who and may they rest on.
#[derive(Debug, Default)]
pub struct Files {
    watched: Mutex<Vec<Arc<dyn Reread>>>,
    changes: Changes,
    refused: AtomicUsize,
}

/// How many times any of the files said something new.
#[derive(Clone, Debug, Default)]
pub(crate) struct Changes(Arc<AtomicU64>);

impl Changes {
    /// The number so far. What is looked up after it was asked for is as new as that, or newer.
    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

impl Files {
    /// No files yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads the file and keeps what `parse` makes of it. Blocks: this is for the start.
    pub(crate) fn watch<T>(&self, path: &Path, parse: Parse<T>) -> Result<Watched<T>, FileError>
    where
        T: Send + Sync + 'static,
    {
        let contents = read(path)?;
        let value = parsed(path, parse, &contents)?;
        let current = Arc::new(RwLock::new(Arc::new(value)));
        let seen = Mutex::new(Seen::new(contents));
        let (path, changes) = (path.to_owned(), self.changes());
        self.add(Arc::new(File { path, parse, seen, current: Arc::clone(&current), changes }));
        Ok(Watched(current))
    }

    /// Counts how many times any of them, now or later, says something new.
    pub(crate) fn changes(&self) -> Changes {
        self.changes.clone()
    }

    /// Has something else looked at along with the files.
    pub(crate) fn add(&self, what: Arc<dyn Reread>) {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }

    /// How many there were, when they were last looked at, of which what is there now does not count: it cannot be used, or not be
    /// read any more, and what they said before stays.
    pub fn refused(&self) -> usize {
        self.refused.load(Ordering::Relaxed)
    }

    /// Looks at each file once, and uses what is new in it if it can be used: for whoever does so now and then. Blocks.
    ///
    /// # Panics
    /// When looking at one did, once the others have been looked at.
    pub fn use_what_is_new(&self) {
        let files = self.watched.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // Whatever a file was doing, what it said last stays whole.
        let look = |file: &Arc<dyn Reread>| catch_unwind(AssertUnwindSafe(|| file.use_if_new()));
        let looked: Vec<_> = files.iter().map(look).collect();
        let refused = files.iter().filter(|file| file.is_refused()).count();
        self.refused.store(refused, Ordering::Relaxed);
        if let Some(panic) = looked.into_iter().find_map(Result::err) {
            resume_unwind(panic);
        }
    }
}

/// Makes a value of a file's contents, or says what is wrong with them, without showing any.
pub(crate) type Parse<T> = fn(&[u8]) -> Result<T, String>;

/// What a file says now.
pub(crate) struct Watched<T>(Arc<RwLock<Arc<T>>>);

impl<T> Watched<T> {
    /// What never changes, because no file stands behind it.
    pub(crate) fn fixed(value: T) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(value))))
    }

    /// What it says now.
    pub(crate) fn current(&self) -> Arc<T> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<T> fmt::Debug for Watched<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Watched")
    }
}

/// What is read again when it changes.
pub(crate) trait Reread: fmt::Debug + Send + Sync {
    /// Looks at it once, and uses what is new if it can be used. Each change is tried once: while a bad one lasts, the log
    /// says so once. Blocks.
    fn use_if_new(&self);

    /// Whether what was found when it was last looked at does not count. Blocks while it is looked at.
    fn is_refused(&self) -> bool;
}

struct File<T> {
    path: PathBuf,
    parse: Parse<T>,
    seen: Mutex<Seen<Vec<u8>>>,
    current: Arc<RwLock<Arc<T>>>,
    changes: Changes,
}

/// What was there when it was last looked at, and whether it could be read since.
#[derive(Debug)]
pub(crate) struct Seen<T> {
    pub(crate) found: T,
    /// Whether that cannot be used.
    pub(crate) refused: bool,
    /// How many times in a row it could not be read.
    unread: u32,
}

/// How often in a row something cannot be read before it is said: what is being replaced may be gone for a moment.
const UNREAD_SAID: u32 = 2;

impl<T> Seen<T> {
    pub(crate) fn new(found: T) -> Self {
        Self { found, refused: false, unread: 0 }
    }

    /// Whether what is there does not count, because it cannot be used or read.
    pub(crate) fn is_refused(&self) -> bool {
        self.refused || self.unread >= UNREAD_SAID
    }

    /// It could not be read: what it said before counts on, which whoever took it away may not have meant.
    pub(crate) fn was_unread(&mut self, place: &Path, error: &(dyn std::error::Error + 'static)) {
        self.unread = self.unread.saturating_add(1);
        if self.unread == UNREAD_SAID {
            tracing::error!(place = %place.display(), error, "it cannot be read any more: what it said before stays");
        }
    }

    pub(crate) fn was_read(&mut self, place: &Path) {
        if std::mem::take(&mut self.unread) >= UNREAD_SAID {
            tracing::info!(place = %place.display(), "it can be read again");
        }
    }
}

impl<T: Send + Sync> Reread for File<T> {
    fn use_if_new(&self) {
        let file = self.path.display();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let found = match read(&self.path) {
            Ok(found) => found,
            Err(error) => return seen.was_unread(&self.path, &error),
        };
        seen.was_read(&self.path);
        if found == seen.found {
            return;
        }
        let value = parsed(&self.path, self.parse, &found);
        seen.refused = value.is_err();
        match value {
            Ok(value) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(value);
                self.changes.0.fetch_add(1, Ordering::Release);
                tracing::info!(%file, "file reloaded");
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(%file, error, "changed file cannot be used: what it said before stays");
            }
        }
        seen.found = found;
    }

    fn is_refused(&self) -> bool {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).is_refused()
    }
}

impl<T> fmt::Debug for File<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("File").field(&self.path).finish()
    }
}

fn parsed<T>(path: &Path, parse: Parse<T>, contents: &[u8]) -> Result<T, FileError> {
    // What is said meanwhile is about that file.
    let _about = tracing::warn_span!("file", path = %path.display()).entered();
    parse(contents).map_err(|problem| FileError::Refused { path: path.to_owned(), problem })
}

fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    let unreadable = |source| FileError::Unreadable { path: path.to_owned(), source };
    let mut contents = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut contents).map_err(unreadable)?;
    if contents.len() as u64 > MAX_FILE_BYTES {
        let problem = format!("it is larger than {} MiB", MAX_FILE_BYTES >> 20);
        return Err(FileError::Refused { path: path.to_owned(), problem });
    }
    Ok(contents)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn number(contents: &[u8]) -> Result<u32, String> {
        let text = str::from_utf8(contents).map_err(|_| "it is not text".to_owned())?;
        text.trim().parse().map_err(|_| "it is not a number".to_owned())
    }

    #[test]
    fn a_changed_file_is_used_and_a_bad_or_absent_one_leaves_what_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("number");
        std::fs::write(&path, "1").unwrap();
        let files = Files::new();
        let watched = files.watch(&path, number).unwrap();
        assert_eq!(*watched.current(), 1);

        for (contents, expected, refused) in
            [(Some("2"), 2, 0), (Some("two"), 2, 1), (None, 2, 1), (Some("3"), 3, 0)]
        {
            match contents {
                Some(contents) => std::fs::write(&path, contents).unwrap(),
                None => std::fs::remove_file(&path).unwrap(),
            }
            // While nothing changes, it stays so.
            for _ in 0..3 {
                files.use_what_is_new();
                assert_eq!((*watched.current(), files.refused()), (expected, refused), "{contents:?}");
            }
        }
    }

    #[test]
    fn what_cannot_be_read_any_more_is_said_once_and_not_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("number");
        let files = Files::new();
        std::fs::write(&path, "1").unwrap();
        let _watched = files.watch(&path, number).unwrap();
        let said = Said::default();
        let rounds = |count| {
            tracing::subscriber::with_default(said.clone(), || {
                (0..count).for_each(|_| files.use_what_is_new())
            });
        };
        std::fs::remove_file(&path).unwrap();
        rounds(1);
        assert_eq!((said.count(), files.refused()), (0, 0));
        rounds(5);
        assert_eq!((said.count(), files.refused()), (1, 1));
        std::fs::write(&path, "1").unwrap();
        rounds(5);
        assert_eq!((said.count(), files.refused()), (2, 0));
    }

    /// Counts what is said.
    #[derive(Clone, Default)]
    pub(crate) struct Said(Arc<std::sync::atomic::AtomicUsize>);

    impl Said {
        pub(crate) fn count(&self) -> usize {
            self.0.load(std::sync::atomic::Ordering::SeqCst)
        }
    }

    impl tracing::Subscriber for Said {
        fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
            *metadata.level() <= tracing::Level::INFO
        }
        fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
            tracing::span::Id::from_u64(1)
        }
        fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
        fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
        fn event(&self, _: &tracing::Event<'_>) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        }
        fn enter(&self, _: &tracing::span::Id) {}
        fn exit(&self, _: &tracing::span::Id) {}
    }

    #[cfg(unix)]
    #[test]
    fn a_swapped_symlink_is_a_change() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("old"), "1").unwrap();
        std::fs::write(path("new"), "2").unwrap();
        std::os::unix::fs::symlink(path("old"), path("current")).unwrap();
        let files = Files::new();
        let watched = files.watch(&path("current"), number).unwrap();
        std::os::unix::fs::symlink(path("new"), path("next")).unwrap();
        std::fs::rename(path("next"), path("current")).unwrap();
        files.use_what_is_new();
        assert_eq!(*watched.current(), 2);
    }

    #[test]
    fn a_file_at_which_reading_breaks_keeps_no_other_from_being_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let fragile = |contents: &[u8]| if contents == b"2" { panic!("a fault") } else { number(contents) };
        let write = |name, contents| std::fs::write(path(name), contents).unwrap();
        write("first", "1");
        write("second", "1");
        let files = Files::new();
        let first = files.watch(&path("first"), fragile).unwrap();
        let second = files.watch(&path("second"), number).unwrap();
        write("first", "2");
        write("second", "2");
        assert!(
            catch_unwind(AssertUnwindSafe(|| files.use_what_is_new())).is_err(),
            "whoever runs it learns"
        );
        assert_eq!((*first.current(), *second.current()), (1, 2));
        write("first", "3");
        files.use_what_is_new();
        assert_eq!(*first.current(), 3);
    }

    #[test]
    fn a_file_that_is_absent_or_wrong_at_the_start_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("number");
        let error = Files::new().watch(&path, number).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot read {}", path.display()));
        std::fs::write(&path, "one").unwrap();
        let error = Files::new().watch(&path, number).unwrap_err();
        assert_eq!(error.to_string(), format!("{}: it is not a number", path.display()));
    }
}
