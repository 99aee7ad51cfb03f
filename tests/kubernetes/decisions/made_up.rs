//! Made-up objects and questions, of few words, so that they meet often.

use std::fmt::Debug;

use auth::{Identity, ResourceAttributes};
use proptest::{
    collection::vec,
    option,
    prelude::*,
    sample::{select, subsequence},
};
use serde_json::{Value, json};

pub(super) const NAMESPACES: [&str; 16] =
    ["n0", "n1", "n2", "n3", "n4", "n5", "n6", "n7", "n8", "n9", "n10", "n11", "n12", "n13", "n14", "n15"];

/// How many roles are made of others, of one another too.
const MADE_OF_OTHERS: usize = 8;

const GROUP: &str = "rbac.authorization.k8s.io";
const LABELS: [(&str, &str); 6] = [
    ("tier", "low"),
    ("tier", "high"),
    ("use", "images"),
    ("use", "tags"),
    ("made", "here"),
    ("made", "there"),
];

/// Who wants what.
#[derive(Clone, Debug)]
pub(super) struct Question {
    pub(super) user: &'static str,
    pub(super) groups: &'static [&'static str],
    pub(super) wanted: ResourceAttributes<'static>,
}

impl Question {
    pub(super) fn caller(&self) -> Identity {
        let groups = self.groups.iter().map(|&group| group.to_owned()).collect();
        Identity { name: self.user.to_owned(), groups, ..Identity::default() }
    }
}

const CALLERS: &[(&str, &[&str])] = &[
    ("alice", &["system:authenticated"]),
    ("alice", &[]),
    ("bob", &["readers", "system:authenticated"]),
    ("carol", &["writers", "readers"]),
    ("mallory", &["*", "alice"]),
    ("*", &[]),
    ("", &["readers"]),
    ("root", &["system:masters", "system:authenticated"]),
    ("system:anonymous", &["system:unauthenticated"]),
    ("system:serviceaccount:n0:sa", &SERVICE_ACCOUNT_OF_N0),
    ("system:serviceaccount:n0:robot", &SERVICE_ACCOUNT_OF_N0),
    ("system:serviceaccount:n0:sa", &[]),
    (
        "system:serviceaccount:n1:sa",
        &["system:serviceaccounts", "system:serviceaccounts:n1", "system:authenticated"],
    ),
    ("system:serviceaccount:n3:robot", &["system:serviceaccounts", "system:serviceaccounts:n3"]),
    ("system:serviceaccount::sa", &["system:serviceaccounts"]),
];

const SERVICE_ACCOUNT_OF_N0: [&str; 3] =
    ["system:serviceaccounts", "system:serviceaccounts:n0", "system:authenticated"];

prop_compose! {
    pub(super) fn question()(
        (user, groups) in select(CALLERS),
        verb in select(&["get", "get", "get", "get", "update", "update", "delete", "list", "*", "GET"][..]),
        group in select(&["image.openshift.io", "image.openshift.io", "image.openshift.io", "", "", "example.org", "*"][..]),
        resource in select(&["imagestreams", "imagestreams", "images", "*", "imagestreams/layers"][..]),
        subresource in select(&["layers", "layers", "", "status", "*"][..]),
        namespace in prop_oneof![6 => select(&NAMESPACES[..]), 1 => Just(""), 1 => Just("nowhere")],
        name in select(&["app", "app", "deep/app", "", "*"][..]),
    ) -> Question {
        let wanted = ResourceAttributes { verb, group, resource, subresource, namespace, name };
        Question { user, groups, wanted }
    }
}

/// Objects of every kind, as they are applied.
pub(super) fn objects() -> impl Strategy<Value = Vec<Value>> {
    let namespace = |index: usize| NAMESPACES[index % NAMESPACES.len()];
    let roles = numbered(2 * NAMESPACES.len(), vec(rule(), 0..3), move |index, rules| {
        let name = format!("r{}", index / NAMESPACES.len());
        object("Role", json!({ "name": name, "namespace": namespace(index) }), json!({ "rules": rules }))
    });
    let rules = vec(rule_of_the_cluster(), 0..3);
    let cluster_roles = numbered(10, (labels(), rules), |index, (labels, rules)| {
        let metadata = json!({ "name": format!("c{index}"), "labels": labels });
        object("ClusterRole", metadata, json!({ "rules": rules }))
    });
    let selectors = vec(selector(), 1..3);
    let made_of_others = numbered(MADE_OF_OTHERS, (labels(), selectors), |index, (mut labels, selectors)| {
        labels["number"] = json!(index.to_string());
        let metadata = json!({ "name": format!("m{index}"), "labels": labels });
        let aggregation = json!({ "clusterRoleSelectors": selectors });
        object("ClusterRole", metadata, json!({ "aggregationRule": aggregation }))
    });
    let bindings = numbered(
        40 * NAMESPACES.len(),
        (role_ref(), vec(subject(), 0..5)),
        move |index, (role, subjects)| {
            let metadata = json!({ "name": format!("b{index}"), "namespace": namespace(index) });
            object("RoleBinding", metadata, json!({ "roleRef": role, "subjects": subjects }))
        },
    );
    let subjects = vec(subject_of_the_cluster(), 0..3);
    let cluster_bindings = numbered(5, (cluster_role_ref(), subjects), |index, (role, subjects)| {
        let metadata = json!({ "name": format!("b{index}") });
        object("ClusterRoleBinding", metadata, json!({ "roleRef": role, "subjects": subjects }))
    });
    (roles, cluster_roles, made_of_others, bindings, cluster_bindings)
        .prop_map(|(one, two, three, four, five)| [one, two, three, four, five].concat())
}

fn numbered<T: Debug>(
    count: usize,
    parts: impl Strategy<Value = T>,
    object: impl Fn(usize, T) -> Value,
) -> impl Strategy<Value = Vec<Value>> {
    vec(parts, count)
        .prop_map(move |all| all.into_iter().enumerate().map(|(index, parts)| object(index, parts)).collect())
}

pub(super) fn object(kind: &str, metadata: Value, rest: Value) -> Value {
    let mut object = json!({ "apiVersion": format!("{GROUP}/v1"), "kind": kind, "metadata": metadata });
    object.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
    object
}

fn words(from: &'static [&'static str], at_least: usize) -> impl Strategy<Value = Vec<&'static str>> {
    subsequence(from, at_least..=3)
}

prop_compose! {
    fn rule()(
        verbs in words(&["get", "update", "delete", "list", "*"], 1),
        groups in words(&["image.openshift.io", "", "*"], 1),
        resources in words(
            &["imagestreams/layers", "imagestreams", "images", "*/layers", "layers", "imagestreams/*", "*/*", "*"],
            1,
        ),
        names in prop_oneof![Just(vec![]), words(&["app", "deep/app", "", "*"], 0)],
    ) -> Value {
        json!({ "verbs": verbs, "apiGroups": groups, "resources": resources, "resourceNames": names })
    }
}

fn rule_of_the_cluster() -> impl Strategy<Value = Value> {
    prop_oneof![
        6 => rule(),
        1 => Just(json!({ "verbs": ["*"], "nonResourceURLs": ["*"] })),
    ]
}

fn labels() -> impl Strategy<Value = Value> {
    subsequence(&LABELS[..], 0..=2)
        .prop_map(|labels| labels.into_iter().map(|(key, value)| (key.to_owned(), json!(value))).collect())
}

/// What selects roles. One that selects by what is not there takes the cluster's own roles in.
fn selector() -> impl Strategy<Value = Value> {
    let label = || select(&LABELS[..]).prop_map(|(key, value)| json!({ key: value }));
    let key = || select(&["tier", "use", "made"][..]);
    let values = || subsequence(&["low", "high", "images", "tags", "here", "there"][..], 1..=3);
    let expression = || {
        prop_oneof![
            6 => (key(), values()).prop_map(|(key, any)| json!({ "key": key, "operator": "In", "values": any })),
            6 => key().prop_map(|key| json!({ "key": key, "operator": "Exists" })),
            1 => (key(), values()).prop_map(|(key, no)| json!({ "key": key, "operator": "NotIn", "values": no })),
            1 => key().prop_map(|key| json!({ "key": key, "operator": "DoesNotExist" })),
        ]
    };
    prop_oneof![
        3 => (0..MADE_OF_OTHERS).prop_map(|index| json!({ "matchLabels": { "number": index.to_string() } })),
        3 => label().prop_map(|label| json!({ "matchLabels": label })),
        1 => vec(expression(), 1..3).prop_map(|expressions| json!({ "matchExpressions": expressions })),
        1 => (label(), expression())
            .prop_map(|(label, expression)| json!({ "matchLabels": label, "matchExpressions": [expression] })),
    ]
}

fn role_ref() -> impl Strategy<Value = Value> {
    prop_oneof![
        select(&["r0", "r0", "r1", "r1", "r2", "c0"][..])
            .prop_map(|name| json!({ "apiGroup": GROUP, "kind": "Role", "name": name })),
        cluster_role_ref(),
    ]
}

fn cluster_role_ref() -> impl Strategy<Value = Value> {
    let name = prop_oneof![
        10 => (0..11).prop_map(|index| format!("c{index}")), // The last one does not exist.
        10 => (0..MADE_OF_OTHERS).prop_map(|index| format!("m{index}")),
        3 => select(&["system:image-puller", "system:image-builder", "view", "edit", "admin", "r0"][..])
            .prop_map(str::to_owned),
    ];
    name.prop_map(|name| json!({ "apiGroup": GROUP, "kind": "ClusterRole", "name": name }))
}

fn subject() -> impl Strategy<Value = Value> {
    prop_oneof![
        3 => subject_of_the_cluster(),
        2 => service_account_name().prop_map(|name| json!({ "kind": "ServiceAccount", "name": name })),
    ]
}

fn subject_of_the_cluster() -> impl Strategy<Value = Value> {
    let user = select(
        &["alice", "bob", "carol", "readers", "*", "system:serviceaccount:n0:sa", "system:anonymous"][..],
    );
    let group = select(
        &[
            "readers",
            "writers",
            "alice",
            "*",
            "system:serviceaccounts:n0",
            "system:serviceaccounts",
            "system:unauthenticated",
            "system:authenticated",
        ][..],
    );
    let api_group = || option::of(Just(GROUP));
    let namespace = select(&NAMESPACES[..]);
    prop_oneof![
        (user, api_group())
            .prop_map(|(name, group)| json!({ "kind": "User", "name": name, "apiGroup": group })),
        (group, api_group())
            .prop_map(|(name, group)| json!({ "kind": "Group", "name": name, "apiGroup": group })),
        (namespace, service_account_name()).prop_map(
            |(namespace, name)| json!({ "kind": "ServiceAccount", "name": name, "namespace": namespace })
        ),
    ]
}

fn service_account_name() -> impl Strategy<Value = &'static str> {
    select(&["sa", "robot"][..])
}
