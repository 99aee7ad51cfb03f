//! What each act takes, in the words of Kubernetes: the only place that says so.

use auth::ResourceAttributes;
use storage::{RepositoryName, Tag};

/// The group of image streams, and the one that they were once in.
const GROUPS: [&str; 2] = ["image.openshift.io", ""];

/// To pull takes this.
pub fn pull(repository: &RepositoryName) -> ResourceAttributes<'_> {
    layers("get", repository)
}

/// To push takes each of these.
pub fn push(repository: &RepositoryName) -> [ResourceAttributes<'_>; 2] {
    [layers("get", repository), layers("update", repository)]
}

/// To delete a blob or a manifest takes one of these: the second is that of OpenShift's pruner.
pub fn delete(repository: &RepositoryName) -> [ResourceAttributes<'_>; 2] {
    [stream("delete", "imagestreams", repository), everywhere("delete", "images", "")]
}

/// To delete a tag takes this; `name` is what [`tag_name`] gives.
pub fn delete_tag<'a>(repository: &'a RepositoryName, name: &'a str) -> ResourceAttributes<'a> {
    ResourceAttributes { name, ..stream("delete", "imagestreamtags", repository) }
}

/// What a tag is called in a right: `app:1`.
pub fn tag_name(repository: &RepositoryName, tag: &Tag) -> String {
    format!("{}:{tag}", stream("", "", repository).name)
}

/// To list all repositories takes this.
pub fn list() -> ResourceAttributes<'static> {
    everywhere("list", "imagestreams", "")
}

/// To pull from all repositories takes this.
pub fn pull_everything() -> ResourceAttributes<'static> {
    everywhere("get", "imagestreams", "layers")
}

/// To push to all repositories takes this besides.
pub fn push_everything() -> ResourceAttributes<'static> {
    everywhere("update", "imagestreams", "layers")
}

/// To delete from all repositories takes one of these.
pub fn delete_everything() -> [ResourceAttributes<'static>; 2] {
    ["imagestreams", "images"].map(|resource| everywhere("delete", resource, ""))
}

/// The same right in each of the groups that it may be given in; one is enough.
pub fn in_each_group<'a>(wanted: &ResourceAttributes<'a>) -> impl Iterator<Item = ResourceAttributes<'a>> {
    GROUPS.iter().map(move |group| ResourceAttributes { group, ..*wanted })
}

fn layers<'a>(verb: &'a str, repository: &'a RepositoryName) -> ResourceAttributes<'a> {
    ResourceAttributes { subresource: "layers", ..stream(verb, "imagestreams", repository) }
}

fn stream<'a>(verb: &'a str, resource: &'a str, repository: &'a RepositoryName) -> ResourceAttributes<'a> {
    let (namespace, name) = match repository.image() {
        Some(image) => (repository.namespace(), image),
        None => ("", repository.as_str()),
    };
    ResourceAttributes { verb, group: GROUPS[0], resource, subresource: "", namespace, name }
}

fn everywhere<'a>(verb: &'a str, resource: &'a str, subresource: &'a str) -> ResourceAttributes<'a> {
    ResourceAttributes { verb, group: GROUPS[0], resource, subresource, namespace: "", name: "" }
}
