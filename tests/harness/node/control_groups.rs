//! The control groups of a node's pods.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

const ROOT: &str = "/sys/fs/cgroup";

/// A group in each hierarchy that the machine has, removed with all that are in it when dropped.
pub(super) struct ControlGroups {
    name: String,
}

impl ControlGroups {
    pub(super) fn new(name: String) -> Self {
        let groups = Self { name };
        for group in groups.all() {
            fs::create_dir(&group).unwrap_or_else(|error| panic!("{}: {error}", group.display()));
        }
        groups
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    fn all(&self) -> Vec<PathBuf> {
        let root = Path::new(ROOT);
        if root.join("cgroup.controllers").exists() {
            return vec![root.join(&self.name)]; // Version 2 has one hierarchy.
        }
        // Some hierarchies have two names there.
        let entries = fs::read_dir(root).unwrap().map(|entry| entry.unwrap());
        let hierarchies = entries.filter(|entry| entry.file_type().unwrap().is_dir());
        hierarchies.map(|hierarchy| hierarchy.path().join(&self.name)).collect()
    }
}

impl Drop for ControlGroups {
    fn drop(&mut self) {
        for group in self.all() {
            if let Err(error) = remove(&group) {
                eprintln!("the control group {} is left: {error}", group.display());
            }
        }
    }
}

/// Removes a group and those in it. Their files go with them.
fn remove(group: &Path) -> io::Result<()> {
    for entry in fs::read_dir(group)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    fs::remove_dir(group)
}
