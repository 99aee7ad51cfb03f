//! What kind of path was asked for: the word by which metrics, traces and logs tell requests apart.

/// The form of a path. There are few, whatever clients send.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(missing_docs, reason = "each is shown by its text")]
pub enum Route {
    Base,
    Catalog,
    Extensions,
    RepositoryExtensions,
    Blob,
    Manifest,
    Uploads,
    Upload,
    Tags,
    Referrers,
    Root,
    Alive,
    Ready,
    DebugHealth,
    Metrics,
    /// Whatever else was asked for, and what was refused before its path was read.
    Other,
}

impl Route {
    /// Every form, in the order of their declaration.
    pub const ALL: [Self; 16] = [
        Self::Base,
        Self::Catalog,
        Self::Extensions,
        Self::RepositoryExtensions,
        Self::Blob,
        Self::Manifest,
        Self::Uploads,
        Self::Upload,
        Self::Tags,
        Self::Referrers,
        Self::Root,
        Self::Alive,
        Self::Ready,
        Self::DebugHealth,
        Self::Metrics,
        Self::Other,
    ];

    /// Returns its text, with the names of what varies in braces.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Base => "/v2/",
            Self::Catalog => "/v2/_catalog",
            Self::Extensions => "/v2/_oci/ext/discover",
            Self::RepositoryExtensions => "/v2/{name}/_oci/ext/discover",
            Self::Blob => "/v2/{name}/blobs/{digest}",
            Self::Manifest => "/v2/{name}/manifests/{reference}",
            Self::Uploads => "/v2/{name}/blobs/uploads/",
            Self::Upload => "/v2/{name}/blobs/uploads/{uuid}",
            Self::Tags => "/v2/{name}/tags/list",
            Self::Referrers => "/v2/{name}/referrers/{digest}",
            Self::Root => "/",
            Self::Alive => "/healthz",
            Self::Ready => "/readyz",
            Self::DebugHealth => "/debug/health",
            Self::Metrics => "/metrics",
            Self::Other => "other",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_has_a_place_of_its_own() {
        assert!(Route::ALL.into_iter().enumerate().all(|(at, route)| route as usize == at));
    }
}
