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
    /// Visit the folder of this name. It is one, and so a folder that cannot lead out of ours, whatever the client sent.
    Visit(RepositoryName),
    /// List the children of this folder (of the root, if none), from the beginning, or after a child.
    List { parent: Option<RepositoryName>, after: Option<String> },
}

impl<'a> Walk<'a> {
    /// A walk that begins strictly after the name `after`.
    pub(crate) fn new(backend: &'a dyn Backend, after: Option<&str>) -> Self {
        let mut walk = Self { backend, after: after.map(str::to_owned), waiting: BinaryHeap::new() };
        walk.list_later(None);
        walk
    }

    /// The next name.
    pub(crate) async fn next(&mut self) -> Result<Option<RepositoryName>, BackendError> {
        while let Some(Reverse((_, step))) = self.waiting.pop() {
            match step {
                Step::Visit(name) => {
                    self.list_later(Some(name.clone()));
                    if self.after.as_ref().is_none_or(|after| name.as_str() > after.as_str()) {
                        return Ok(Some(name));
                    }
                }
                Step::List { parent, after } => self.list(parent, after).await?,
            }
        }
        Ok(None)
    }

    /// Plans to visit a folder, if it may be a repository or hold some: each folder on the way to one has a name as good.
    fn visit_later(&mut self, name: String) {
        if let Ok(parsed) = name.parse() {
            self.waiting.push(Reverse((name, Step::Visit(parsed))));
        }
    }

    /// Plans to list the children of `parent`, unless all of them come before where the walk begins.
    fn list_later(&mut self, parent: Option<RepositoryName>) {
        let prefix = prefix_of(parent.as_ref());
        let begin = match self.after.as_deref().map(|after| (after, after.strip_prefix(prefix.as_str()))) {
            Some((after, None)) if prefix.as_str() < after => return,
            Some((_, Some(rest))) => rest.split('/').next().filter(|segment| !segment.is_empty()),
            Some((_, None)) | None => None,
        };
        let after = begin.map(str::to_owned);
        if let Some(segment) = &after {
            // The walk begins somewhere below this child, or below one of which its name is a continuation: all below `a/` comes
            // after `a-b`. Whether these exist is seen when they are listed; those between need not be read at all.
            let ends = segment.match_indices(['-', '.']).map(|(end, _)| end).chain([segment.len()]);
            for end in ends {
                self.visit_later(format!("{prefix}{}", &segment[..end]));
            }
        }
        self.waiting.push(Reverse((prefix, Step::List { parent, after })));
    }

    async fn list(
        &mut self,
        parent: Option<RepositoryName>,
        after: Option<String>,
    ) -> Result<(), BackendError> {
        let prefix = prefix_of(parent.as_ref());
        let folder = parent.as_ref().map_or_else(layout::repositories, layout::repository);
        let page = self.backend.recent_children(&folder, after.as_deref(), BATCH).await?;
        // What begins with an underscore is the repository's own, and no name.
        for child in &page.names {
            self.visit_later(format!("{prefix}{child}"));
        }
        if let Some(last) = page.into_next() {
            let resume = Step::List { parent, after: Some(last.clone()) };
            self.waiting.push(Reverse((format!("{prefix}{last}"), resume)));
        }
        Ok(())
    }
}

/// What the names of a folder's children begin with.
fn prefix_of(parent: Option<&RepositoryName>) -> String {
    parent.map_or_else(String::new, |parent| format!("{parent}/"))
}
