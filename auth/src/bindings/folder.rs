//! A folder of roles and bindings, read again when it changes, also by the swap of a symlink, which is how Kubernetes
//! renews what it mounts.
//!
//! It is all or nothing: one wrong file, and the last good state stays. Folders inside it are not looked into, nor are
//! files whose names begin with a dot, as `kubectl apply -f` has it.

use std::collections::HashMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::BUILT_IN;
use super::aggregation::{ClusterRole, aggregate};
use super::document::{Contents, Object};
use crate::files::{Files, Reread, Seen};
use crate::rbac::{Policy, Rbac};

/// A folder of roles and bindings, and the policy that it makes.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    rbac: Arc<Rbac>,
    seen: Mutex<Seen<Known>>,
}

/// What tells whether the files are others than when they were last read.
#[derive(Debug)]
struct Known {
    /// The one before they were read.
    look: Look,
    fingerprint: u64,
}

/// What the file system says of the files.
#[derive(Debug)]
struct Look {
    stamps: Vec<Stamp>,
    taken: Instant,
    /// Whether they had been left alone for longer than a tick of its clock.
    are_settled: bool,
}

/// A file, and what changes whenever its contents do, unless two changes share a tick of the file system's clock.
#[derive(Debug, Eq, PartialEq)]
struct Stamp {
    path: PathBuf,
    device_and_inode: (u64, u64),
    size: u64,
    /// Seconds, and nanoseconds.
    changed: (i64, i64),
}

/// How long files that seem to be the same are not read: 100,000 bindings are dozens of MiB. Not for ever, since the file system may have
/// another clock.
const UNREAD_FOR: Duration = Duration::from_secs(60);

/// The longest tick of a file system's clock, in seconds.
const TICK_SECONDS: u64 = 2;

/// Why a folder makes no policy.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The folder or a file in it cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The folder or file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Something in it is wrong.
    #[error(transparent)]
    Wrong(#[from] Problems),
}

/// All that is wrong with some files.
#[derive(Debug, thiserror::Error)]
pub struct Problems(pub Vec<Remark>);

/// A remark on a file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Remark {
    /// The file.
    pub file: String,
    /// The line on which the document begins that it is about, from 1.
    pub line: u64,
    /// What is to be said.
    pub what: String,
}

/// A policy, and what somebody should know who wrote it.
#[derive(Debug)]
pub struct Loaded {
    /// The policy.
    pub policy: Policy,
    /// What is in the files and has no effect.
    pub remarks: Vec<Remark>,
}

impl Folder {
    /// Reads the folder at `path`. It blocks.
    ///
    /// # Errors
    /// When a file cannot be read, or is wrong.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, FolderError> {
        let path = path.into();
        let look = Look::at(&path)?;
        let files = read(&look.stamps)?;
        let loaded = load(&files)?;
        loaded.log();
        let seen = Seen::new(Known { look, fingerprint: fingerprint(&files) });
        Ok(Self { path, rbac: Arc::new(Rbac::new(loaded.policy)), seen: Mutex::new(seen) })
    }

    /// Who decides by what the folder holds, now and later.
    pub fn authorizer(&self) -> Arc<Rbac> {
        Arc::clone(&self.rbac)
    }

    /// Has it looked at along with `files`, whenever they are.
    pub fn reread_with(self, files: &Files) {
        files.add(Arc::new(self));
    }
}

impl Reread for Folder {
    fn use_if_new(&self) {
        let folder = self.path.display();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let look = match Look::at(&self.path) {
            Ok(look) => look,
            Err(error) => return seen.was_unread(&self.path, &error),
        };
        if look.needs_no_reading_after(&seen.found.look) {
            return seen.was_read(&self.path);
        }
        let files = match read(&look.stamps) {
            Ok(files) => files,
            Err(error) => return seen.was_unread(&self.path, &error),
        };
        seen.was_read(&self.path);
        let found = Known { look, fingerprint: fingerprint(&files) };
        if found.fingerprint == seen.found.fingerprint {
            seen.found = found;
            return;
        }
        // What changes while it is read may be half of one state and half of another: it is read when it has settled.
        match stamps(&self.path).and_then(|stamps| read(&stamps)) {
            Ok(again) if fingerprint(&again) == found.fingerprint => {}
            Ok(_) => return,
            Err(error) => return seen.was_unread(&self.path, &error),
        }
        let loaded = load(&files);
        seen.refused = loaded.is_err();
        match loaded {
            Ok(loaded) => {
                loaded.log();
                self.rbac.replace(loaded.policy);
                tracing::info!(%folder, "roles and bindings reloaded");
            }
            Err(problems) => {
                let error = &problems as &dyn std::error::Error;
                tracing::error!(%folder, error, "changed roles and bindings cannot be used: the old ones stay");
            }
        }
        seen.found = found;
    }

    fn is_refused(&self) -> bool {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).is_refused()
    }
}

/// Makes a policy of files, each with its name, and of the roles that are built in.
///
/// # Errors
/// All that is wrong with them.
pub fn load(files: &[(String, Vec<u8>)]) -> Result<Loaded, Problems> {
    let (mut problems, mut remarks) = (Vec::new(), Vec::new());
    let mut places: HashMap<String, (&str, u64)> = HashMap::new();
    let (mut roles, mut cluster_roles, mut bindings) = (Vec::new(), Vec::new(), Vec::new());
    for (file, contents) in files {
        let remark = |line, what: String| Remark { file: file.clone(), line, what };
        let Ok(text) = str::from_utf8(contents) else {
            problems.push(remark(1, "it is not UTF-8".to_owned()));
            continue;
        };
        let contents = Contents::read(text);
        problems.extend(contents.problems.into_iter().map(|at| remark(at.line, at.it)));
        remarks.extend(contents.ignored.into_iter().map(|at| remark(at.line, at.it)));
        for at in contents.objects {
            let label = at.it.label();
            if let Some((other, line)) = places.get(&label) {
                let what = format!("{label} is also in {other}:{line}; remove one of them");
                problems.push(remark(at.line, what));
                continue;
            }
            places.insert(label, (file, at.line));
            match at.it {
                Object::Role(role) => roles.push(role),
                Object::ClusterRole(role) => cluster_roles.push(role),
                Object::Binding(binding) => bindings.push((remark(at.line, String::new()), binding)),
            }
        }
    }
    if !problems.is_empty() {
        return Err(Problems(problems));
    }
    cluster_roles
        .extend(built_in().filter(|role| !places.contains_key(&format!("ClusterRole {}", role.name))));

    let mut policy = Policy::new(roles.into_iter().chain(aggregate(cluster_roles)), []);
    for (remark, binding) in bindings {
        if !policy.has_role(binding.namespace.as_deref(), &binding.role) {
            let what = format!("{} grants nothing: there is no {}", binding.label(), binding.role);
            remarks.push(Remark { what, ..remark });
        }
        policy.put_binding(binding);
    }
    Ok(Loaded { policy, remarks })
}

fn built_in() -> impl Iterator<Item = ClusterRole> {
    BUILT_IN.into_iter().flat_map(|text| Contents::read(text).objects).filter_map(|at| match at.it {
        Object::ClusterRole(role) => Some(role),
        Object::Role(_) | Object::Binding(_) => None,
    })
}

impl Look {
    /// A look at a folder whose files are about to be read.
    fn at(folder: &Path) -> Result<Self, FolderError> {
        let stamps = stamps(folder)?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let is_old =
            |stamp: &Stamp| u64::try_from(stamp.changed.0).is_ok_and(|changed| changed + TICK_SECONDS < now);
        let are_settled = stamps.iter().all(is_old);
        Ok(Self { stamps, taken: Instant::now(), are_settled })
    }

    fn needs_no_reading_after(&self, last: &Self) -> bool {
        last.are_settled && self.stamps == last.stamps && self.taken.duration_since(last.taken) < UNREAD_FOR
    }
}

/// Finds all files that count, in the order of their names.
fn stamps(folder: &Path) -> Result<Vec<Stamp>, FolderError> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable(folder))? {
        let path = entry.map_err(unreadable(folder))?.path();
        let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let extension = path.extension().and_then(|extension| extension.to_str());
        if !is_hidden && matches!(extension, Some("yaml" | "yml" | "json")) {
            paths.push(path);
        }
    }
    paths.sort();
    let mut stamps = Vec::with_capacity(paths.len());
    for path in paths {
        let file = std::fs::metadata(&path).map_err(unreadable(&path))?;
        if file.is_file() {
            stamps.push(Stamp {
                path,
                device_and_inode: (file.dev(), file.ino()),
                size: file.size(),
                changed: (file.ctime(), file.ctime_nsec()),
            });
        }
    }
    Ok(stamps)
}

/// Reads the files that were found, each with its name.
fn read(found: &[Stamp]) -> Result<Vec<(String, Vec<u8>)>, FolderError> {
    let read = |Stamp { path, .. }: &Stamp| {
        Ok((path.display().to_string(), std::fs::read(path).map_err(unreadable(path))?))
    };
    found.iter().map(read).collect()
}

fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> FolderError {
    let path = path.to_owned();
    |source| FolderError::Unreadable { path, source }
}

fn fingerprint(files: &[(String, Vec<u8>)]) -> u64 {
    let mut hasher = DefaultHasher::new();
    files.hash(&mut hasher);
    hasher.finish()
}

impl Loaded {
    fn log(&self) {
        for remark in &self.remarks {
            tracing::warn!(file = remark.file, line = remark.line, "{}", remark.what);
        }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(formatter, "{separator}{problem}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Remark {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}: {}", self.file, self.line, self.what)
    }
}

#[cfg(test)]
mod tests;
