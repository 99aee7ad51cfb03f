//! The catalog: which repositories there are, in byte order of their names.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::backend::{Backend, BackendError};
use crate::layout;
use crate::registry::Registry;
use crate::repository_name::RepositoryName;

/// How many names are asked of the backend at once.
const BATCH: usize = 200;

/// Some of the repositories of a registry.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct CatalogPage {
    /// Their names, in byte order.
    pub repositories: Vec<RepositoryName>,
    /// Whether more follow the last of these.
    pub more: bool,
}

impl Registry {
    /// Lists at most `limit` repositories strictly after the name `after`, which need not exist. A repository is listed once it
    /// was pushed a manifest, as in distribution.
    pub async fn catalog(&self, after: Option<&str>, limit: usize) -> Result<CatalogPage, BackendError> {
        let backend = &*self.0.backend;
        let mut page = CatalogPage::default();
        let mut walk = Walk::new(backend, after);
        while let Some(name) = walk.next().await? {
            let manifests = layout::manifests(&layout::repository(&name));
            if backend.children(&manifests, None, 1).await?.names.is_empty() {
                continue;
            }
            if page.repositories.len() == limit {
                page.more = true;
                break;
            }
            page.repositories.push(name);
        }
        Ok(page)
    }
}

/// Walks the folders below [`layout::repositories`] that may be repositories, in byte order of their names.
///
/// Folders nest, and their order is not that of the names (`a-b` comes before `a/b`, `a` before both), so what has been seen and
/// not yet visited waits in a heap. It holds at most one batch a level.
pub(crate) struct Walk<'a> {
    backend: &'a dyn Backend,
    after: Option<String>,
    waiting: BinaryHeap<Reverse<(String, Step)>>,
}

#[derive(Eq, Ord, PartialEq, PartialOrd)]
enum Step {
    /// Visit the folder of this name.
    Visit,
    /// List the children of the folder whose name with a slash this is (empty: the root), from the beginning, or after a child.
    List { parent: String, after: Option<String> },
}

impl<'a> Walk<'a> {
    /// A walk that begins strictly after the name `after`.
    pub(crate) fn new(backend: &'a dyn Backend, after: Option<&str>) -> Self {
        let mut walk = Self { backend, after: after.map(str::to_owned), waiting: BinaryHeap::new() };
        walk.list_later(String::new());
        walk
    }

    /// The next name.
    pub(crate) async fn next(&mut self) -> Result<Option<RepositoryName>, BackendError> {
        while let Some(Reverse((name, step))) = self.waiting.pop() {
            match step {
                Step::Visit => {
                    self.list_later(format!("{name}/"));
                    if self.after.as_ref().is_none_or(|after| name > *after)
                        && let Ok(name) = name.parse()
                    {
                        return Ok(Some(name));
                    }
                }
                Step::List { parent, after } => self.list(parent, after).await?,
            }
        }
        Ok(None)
    }

    /// Plans to list the children of `parent`, unless all of them come before where the walk begins.
    fn list_later(&mut self, parent: String) {
        let begin = match self.after.as_deref().map(|after| (after, after.strip_prefix(parent.as_str()))) {
            Some((after, None)) if parent.as_str() < after => return,
            Some((_, Some(rest))) => rest.split('/').next().filter(|segment| !segment.is_empty()),
            Some((_, None)) | None => None,
        };
        let after = begin.map(str::to_owned);
        if let Some(segment) = &after {
            // The walk begins somewhere below this child, or below one of which its name is a continuation: all below `a/` comes
            // after `a-b`. Whether these exist is seen when they are listed; those between need not be read at all.
            let ends = segment.match_indices(['-', '.']).map(|(end, _)| end).chain([segment.len()]);
            for end in ends.filter(|end| *end > 0) {
                self.waiting.push(Reverse((format!("{parent}{}", &segment[..end]), Step::Visit)));
            }
        }
        self.waiting.push(Reverse((parent.clone(), Step::List { parent, after })));
    }

    async fn list(&mut self, parent: String, after: Option<String>) -> Result<(), BackendError> {
        let folder = match parent.strip_suffix('/') {
            Some(name) => layout::repositories().folder(name),
            None => layout::repositories(),
        };
        let page = self.backend.children(&folder, after.as_deref(), BATCH).await?;
        // What begins with an underscore is the repository's own, and no name can.
        for child in page.names.iter().filter(|child| !child.starts_with('_')) {
            self.waiting.push(Reverse((format!("{parent}{child}"), Step::Visit)));
        }
        if let Some(last) = page.into_next() {
            let resume = Step::List { parent: parent.clone(), after: Some(last.clone()) };
            self.waiting.push(Reverse((format!("{parent}{last}"), resume)));
        }
        Ok(())
    }
}
