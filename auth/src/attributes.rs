//! What a caller wants, in the words of Kubernetes.

/// An act on a resource, as a `SubjectAccessReview` names it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ResourceAttributes<'a> {
    /// What is to be done: `get`, `update`, `delete`, `list`.
    pub verb: &'a str,
    /// The API group of the resource.
    pub group: &'a str,
    /// The resource, such as `imagestreams`.
    pub resource: &'a str,
    /// The part of the resource, such as `layers`, or empty.
    pub subresource: &'a str,
    /// The namespace it lies in, or empty for the whole cluster.
    pub namespace: &'a str,
    /// Its name, or empty for all of them.
    pub name: &'a str,
}
