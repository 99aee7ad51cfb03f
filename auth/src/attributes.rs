//! What a caller wants, in the words of Kubernetes.

use std::fmt;

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

/// As the API server words what it forbids.
impl fmt::Display for ResourceAttributes<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { verb, group, resource, subresource, namespace, name } = self;
        let slash = if subresource.is_empty() { "" } else { "/" };
        write!(formatter, "{verb} resource \"{resource}{slash}{subresource}\" in API group \"{group}\"")?;
        if !name.is_empty() {
            write!(formatter, " of the name \"{name}\"")?;
        }
        match *namespace {
            "" => formatter.write_str(" at the cluster scope"),
            namespace => write!(formatter, " in the namespace \"{namespace}\""),
        }
    }
}
