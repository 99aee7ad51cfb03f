use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::*;
use crate::bindings;

fn policy(text: &str) -> Policy {
    let loaded = bindings::load(&[("rbac.yaml".to_owned(), text.as_bytes().to_vec())]);
    loaded.map_err(|problems| problems.to_string()).unwrap().policy
}

/// `name` or `name+group+group`; `ns:account` is a service account with the groups that the API server gives it.
fn caller(text: &str) -> Identity {
    let mut words = text.split('+');
    let name = words.next().unwrap_or_default();
    let mut groups: Vec<String> = words.map(str::to_owned).collect();
    let name = match name.split_once(':') {
        Some((namespace, _)) if namespace != "system" => {
            groups.push("system:serviceaccounts".to_owned());
            groups.push(format!("system:serviceaccounts:{namespace}"));
            groups.push("system:authenticated".to_owned());
            format!("system:serviceaccount:{name}")
        }
        _ => name.to_owned(),
    };
    Identity { name, groups, ..Identity::default() }
}

/// `verb resource[.group][/subresource] [namespace[/name]]`, of `image.openshift.io` unless the group is given; the core
/// group is written `.`.
fn wanted(text: &str) -> ResourceAttributes<'_> {
    let mut words = text.split(' ');
    let (verb, resource, place) =
        (words.next().unwrap(), words.next().unwrap(), words.next().unwrap_or_default());
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    let (resource, group) = resource.split_once('.').unwrap_or((resource, "image.openshift.io"));
    let (namespace, name) = place.split_once('/').unwrap_or((place, ""));
    ResourceAttributes { verb, group, resource, subresource, namespace, name }
}

const OBJECTS: &str = r#"
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: pullers, namespace: team}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: system:image-puller}
subjects:
  - {kind: ServiceAccount, name: example-sa}
  - {kind: ServiceAccount, name: robot, namespace: tools}
  - {kind: User, name: alice}
  - {kind: Group, name: readers}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: builders, namespace: team}
roleRef: {kind: ClusterRole, name: system:image-builder}
subjects:
  - {kind: User, name: "system:serviceaccount:team:builder"}
  - {kind: Group, name: "system:serviceaccounts:ci", apiGroup: rbac.authorization.k8s.io}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: everybody, namespace: open}
roleRef: {kind: ClusterRole, name: system:image-puller}
subjects:
  - {kind: Group, name: "system:authenticated"}
  - {kind: Group, name: "system:unauthenticated"}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: auditors}
roleRef: {kind: ClusterRole, name: auditor}
subjects:
  - {kind: User, name: audrey}
  - {kind: ServiceAccount, name: scanner, namespace: security}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: auditor}
rules:
  - {apiGroups: [image.openshift.io], resources: ["imagestreams", "*/layers"], verbs: [get, list]}
  - {nonResourceURLs: ["*"], verbs: ["*"]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: masters}
roleRef: {kind: ClusterRole, name: cluster-admin}
subjects: [{kind: User, name: root}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: pruners}
roleRef: {kind: ClusterRole, name: system:image-pruner}
subjects: [{kind: User, name: pruner}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: one-image, namespace: team}
rules:
  - {apiGroups: ["*"], resources: [imagestreams/layers], verbs: ["*"], resourceNames: [web, "deep/api"]}
  - {apiGroups: [""], resources: [secrets], verbs: [get]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: one-image, namespace: other}
rules: [{apiGroups: ["*"], resources: ["*"], verbs: ["*"]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: web, namespace: team}
roleRef: {kind: Role, name: one-image}
subjects: [{kind: User, name: wendy}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: gone, namespace: team}
roleRef: {kind: Role, name: no-such-role}
subjects: [{kind: User, name: gwen}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: kinds-are-apart, namespace: team}
roleRef: {kind: Role, name: system:image-puller}
subjects: [{kind: User, name: kim}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: admins, namespace: team}
roleRef: {kind: ClusterRole, name: admin}
subjects: [{kind: User, name: adam}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: editors, namespace: team}
roleRef: {kind: ClusterRole, name: edit}
subjects: [{kind: User, name: edith}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: viewers, namespace: team}
roleRef: {kind: ClusterRole, name: view}
subjects: [{kind: User, name: vic}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: here}
roleRef: {kind: ClusterRole, name: system:image-pusher}
subjects: [{kind: ServiceAccount, name: dora}, {kind: User, name: "*"}, {kind: Group, name: "*"}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: core, namespace: core}
roleRef: {kind: Role, name: core}
subjects: [{kind: User, name: cora}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: core, namespace: core}
rules: [{apiGroups: [""], resources: [imagestreams/layers], verbs: [get]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: odd, namespace: odd}
roleRef: {kind: Role, name: odd}
subjects: [{kind: User, name: otto}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: odd, namespace: odd}
rules:
  - {apiGroups: [image.openshift.io], resources: ["imagestreams/*"], verbs: [get]}
  - {apiGroups: [image.openshift.io], resources: ["*/status"], verbs: [get]}
  - {apiGroups: [image.openshift.io], resources: [images], verbs: [get], resourceNames: ["*"]}
  - {apiGroups: [image.openshift.io], resources: [imagetags], verbs: [list], resourceNames: [""]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: signer, namespace: team}
rules: [{apiGroups: [image.openshift.io], resources: [imagesignatures], verbs: [create]}]
"#;

/// Who, what, and the binding that allows it.
const CASES: &[(&str, &str, &str)] = &[
    // A service account of the binding's own namespace, which it need not name.
    ("team:example-sa", "get imagestreams/layers team/app", "RoleBinding team/pullers"),
    ("team:example-sa", "get imagestreams/layers team/deep/app", "RoleBinding team/pullers"),
    ("team:example-sa", "get imagestreams/layers team", "RoleBinding team/pullers"),
    ("team:example-sa", "get imagestreams./layers team/app", "RoleBinding team/pullers"),
    ("team:example-sa", "update imagestreams/layers team/app", ""),
    ("team:example-sa", "delete imagestreams/layers team/app", ""),
    ("team:example-sa", "list imagestreams/layers team/app", ""),
    ("team:example-sa", "get imagestreams team/app", ""),
    ("team:example-sa", "get imagestreams/status team/app", ""),
    ("team:example-sa", "get images/layers team/app", ""),
    ("team:example-sa", "get imagestreams.example.org/layers team/app", ""),
    ("team:example-sa", "get imagestreams/layers other/app", ""),
    ("team:example-sa", "get imagestreams/layers teams/app", ""),
    ("team:example-sa", "get imagestreams/layers tea/app", ""),
    ("team:example-sa", "get imagestreams/layers /app", ""),
    ("team:example-sa", "get imagestreams/layers", ""),
    ("team:example-sa", "GET imagestreams/layers team/app", ""),
    ("team:other-sa", "get imagestreams/layers team/app", ""),
    ("other:example-sa", "get imagestreams/layers team/app", ""),
    ("team:example-s", "get imagestreams/layers team/app", ""),
    ("team:example-sa2", "get imagestreams/layers team/app", ""),
    // Of another namespace.
    ("tools:robot", "get imagestreams/layers team/app", "RoleBinding team/pullers"),
    ("team:robot", "get imagestreams/layers team/app", ""),
    ("tools:robot", "get imagestreams/layers tools/app", ""),
    ("tools:robot", "update imagestreams/layers team/app", ""),
    // Users and groups.
    ("alice", "get imagestreams/layers team/app", "RoleBinding team/pullers"),
    ("alice", "update imagestreams/layers team/app", ""),
    ("Alice", "get imagestreams/layers team/app", ""),
    ("alic", "get imagestreams/layers team/app", ""),
    ("", "get imagestreams/layers team/app", ""),
    ("team:alice", "get imagestreams/layers team/app", ""),
    ("mallory+alice", "get imagestreams/layers team/app", ""),
    ("readers", "get imagestreams/layers team/app", ""),
    ("bob+readers", "get imagestreams/layers team/app", "RoleBinding team/pullers"),
    ("bob+writers+readers", "get imagestreams/layers team/app", "RoleBinding team/pullers"),
    ("bob+Readers", "get imagestreams/layers team/app", ""),
    ("bob", "get imagestreams/layers team/app", ""),
    ("bob+readers", "get imagestreams/layers other/app", ""),
    // A service account is the user of its name, and is in the groups of its namespace.
    ("team:builder", "update imagestreams/layers team/app", "RoleBinding team/builders"),
    ("team:builder", "get imagestreams/layers team/app", "RoleBinding team/builders"),
    ("team:builder", "create imagestreams team/app", "RoleBinding team/builders"),
    ("team:builder", "delete imagestreams team/app", ""),
    ("ci:anyone", "update imagestreams/layers team/app", "RoleBinding team/builders"),
    ("cid:anyone", "update imagestreams/layers team/app", ""),
    ("system:serviceaccount:ci:fake", "update imagestreams/layers team/app", ""),
    ("system:serviceaccount:team:example-sa", "get imagestreams/layers team/app", "RoleBinding team/pullers"),
    // Everybody, and whoever shows nothing.
    ("bob+system:authenticated", "get imagestreams/layers open/app", "RoleBinding open/everybody"),
    (
        "system:anonymous+system:unauthenticated",
        "get imagestreams/layers open/app",
        "RoleBinding open/everybody",
    ),
    ("system:anonymous+system:unauthenticated", "update imagestreams/layers open/app", ""),
    ("system:anonymous+system:unauthenticated", "get imagestreams/layers team/app", ""),
    ("system:anonymous", "get imagestreams/layers open/app", ""),
    ("any:sa", "get imagestreams/layers open/app", "RoleBinding open/everybody"),
    ("bob", "get imagestreams/layers open/app", ""),
    // The whole cluster.
    ("audrey", "list imagestreams", "ClusterRoleBinding auditors"),
    ("audrey", "list imagestreams team", "ClusterRoleBinding auditors"),
    ("audrey", "get imagestreams/layers team/app", "ClusterRoleBinding auditors"),
    ("audrey", "get imagestreams/layers nowhere/app", "ClusterRoleBinding auditors"),
    ("audrey", "get imagestreams/layers /alone", "ClusterRoleBinding auditors"),
    ("audrey", "get imagestreams/layers", "ClusterRoleBinding auditors"),
    ("audrey", "get images/layers team/app", "ClusterRoleBinding auditors"),
    ("audrey", "get imagestreams/status team/app", ""),
    ("audrey", "get imagestreams./layers team/app", ""),
    ("audrey", "update imagestreams/layers team/app", ""),
    ("audrey", "get images", ""),
    ("security:scanner", "get imagestreams/layers team/app", "ClusterRoleBinding auditors"),
    ("team:scanner", "get imagestreams/layers team/app", ""),
    ("root", "delete images", "ClusterRoleBinding masters"),
    ("root", "delete imagestreams team/app", "ClusterRoleBinding masters"),
    ("root", "anything things.example.org/part team/app", "ClusterRoleBinding masters"),
    ("root", "get imagestreams./layers team/app", "ClusterRoleBinding masters"),
    ("bob+system:masters", "get imagestreams/layers team/app", ""),
    ("pruner", "delete images", "ClusterRoleBinding pruners"),
    ("pruner", "delete images /any", "ClusterRoleBinding pruners"),
    ("pruner", "delete images.", ""),
    ("pruner", "delete imagestreams team/app", ""),
    ("pruner", "list imagestreams", "ClusterRoleBinding pruners"),
    ("pruner", "get imagestreams/layers team/app", ""),
    // A role, and its names.
    ("wendy", "get imagestreams/layers team/web", "RoleBinding team/web"),
    ("wendy", "update imagestreams/layers team/web", "RoleBinding team/web"),
    ("wendy", "get imagestreams./layers team/web", "RoleBinding team/web"),
    ("wendy", "get imagestreams/layers team/deep/api", "RoleBinding team/web"),
    ("wendy", "get imagestreams/layers team/deep", ""),
    ("wendy", "get imagestreams/layers team/web/more", ""),
    ("wendy", "get imagestreams/layers team/webs", ""),
    ("wendy", "get imagestreams/layers team", ""),
    ("wendy", "get imagestreams team/web", ""),
    ("wendy", "get secrets. team/any", "RoleBinding team/web"),
    ("wendy", "get secrets team/any", ""),
    ("wendy", "get imagestreams/layers other/web", ""),
    ("wendy", "get secrets. other/any", ""),
    ("gwen", "get imagestreams/layers team/app", ""),
    ("kim", "get imagestreams/layers team/app", ""),
    // Roles made of others.
    ("vic", "get imagestreams/layers team/app", "RoleBinding team/viewers"),
    ("vic", "list imagestreamtags team", "RoleBinding team/viewers"),
    ("vic", "update imagestreams/layers team/app", ""),
    ("vic", "delete imagestreamtags team/app:v1", ""),
    ("vic", "get imagestreams/layers other/app", ""),
    ("edith", "get imagestreams/layers team/app", "RoleBinding team/editors"),
    ("edith", "update imagestreams/layers team/app", "RoleBinding team/editors"),
    ("edith", "delete imagestreamtags team/app:v1", "RoleBinding team/editors"),
    ("edith", "delete imagestreams team/app", "RoleBinding team/editors"),
    ("edith", "delete images", ""),
    ("edith", "create rolebindings.rbac.authorization.k8s.io team", ""),
    ("adam", "update imagestreams/layers team/app", "RoleBinding team/admins"),
    ("adam", "create rolebindings.rbac.authorization.k8s.io team", "RoleBinding team/admins"),
    ("adam", "update imagestreams/layers other/app", ""),
    // Nothing says where it lies.
    ("default:dora", "update imagestreams/layers default/app", "RoleBinding default/here"),
    ("default:dora", "create imagestreams default/app", ""),
    ("default:dora", "update imagestreams/layers team/app", ""),
    ("team:dora", "update imagestreams/layers default/app", ""),
    // There are no wildcards for subjects, names or parts.
    ("bob+some", "update imagestreams/layers default/app", ""),
    ("*", "update imagestreams/layers default/app", "RoleBinding default/here"),
    ("bob+*", "update imagestreams/layers default/app", "RoleBinding default/here"),
    ("otto", "get imagestreams/layers odd/app", ""),
    ("otto", "get imagestreams odd/app", ""),
    ("otto", "get imagestreams/* odd/app", "RoleBinding odd/odd"),
    ("otto", "get imagestreams/status odd/app", "RoleBinding odd/odd"),
    ("otto", "get images/status odd/app", "RoleBinding odd/odd"),
    ("otto", "get images odd/app", ""),
    ("otto", "get images odd", ""),
    ("otto", "list imagetags odd", "RoleBinding odd/odd"),
    ("otto", "list imagetags odd/app", ""),
    // The core group is a group of its own.
    ("cora", "get imagestreams./layers core/app", "RoleBinding core/core"),
    ("cora", "get imagestreams/layers core/app", ""),
];

#[test]
fn a_folder_of_bindings_allows_what_a_cluster_would() {
    let policy = policy(OBJECTS);
    assert!(CASES.len() > 100);
    for (who, what, binding) in CASES {
        let (caller, wanted) = (caller(who), wanted(what));
        let expected =
            if binding.is_empty() { Decision::Denied } else { Decision::Allowed((*binding).into()) };
        assert_eq!(policy.decide(&caller, &wanted), expected, "{who} {what}");
        let explanation = policy.explain(&caller, &wanted);
        assert_eq!(explanation.grants.first().map_or("", |grant| &grant.binding), *binding, "{who} {what}");
        assert_eq!(explanation.is_allowed(), !binding.is_empty());
    }
}

fn binding(namespace: Option<&str>, name: &str, kind: RoleKind, role: &str, user: &str) -> Binding {
    Binding {
        namespace: namespace.map(str::to_owned),
        name: name.to_owned(),
        role: RoleRef { kind, name: role.to_owned() },
        subjects: vec![Subject::User(user.to_owned())],
    }
}

/// A binding to be taken away, of which no more counts than where it lies and its name.
fn bound(namespace: Option<&str>, name: &str) -> Binding {
    binding(namespace, name, RoleKind::ClusterRole, "", "")
}

fn role(namespace: Option<&str>, name: &str, verb: &str) -> Role {
    let rule = PolicyRule {
        verbs: vec![verb.to_owned()],
        api_groups: vec!["*".to_owned()],
        resources: vec!["*".to_owned()],
        resource_names: vec![],
    };
    Role { namespace: namespace.map(str::to_owned), name: name.to_owned(), rules: vec![rule] }
}

#[test]
fn each_change_of_one_object_counts_at_once() {
    let mut policy = Policy::default();
    let may = |policy: &Policy, what: &str| policy.decide(&caller("ann"), &wanted(what)) != Decision::Denied;
    let read = "get imagestreams/layers team/app";
    policy.put_binding(binding(Some("team"), "one", RoleKind::Role, "reader", "ann"));
    assert!(!may(&policy, read), "there is no such role yet");
    policy.put_role(role(Some("other"), "reader", "get"));
    policy.put_role(role(None, "reader", "get"));
    assert!(!may(&policy, read), "those are other roles");
    policy.put_role(role(Some("team"), "reader", "list"));
    assert!(!may(&policy, read));
    policy.put_role(role(Some("team"), "reader", "get"));
    assert!(may(&policy, read));
    policy.remove(role(Some("team"), "reader", ""));
    assert!(!may(&policy, read));

    // A binding that changes is not what it was.
    policy.put_binding(binding(Some("team"), "one", RoleKind::ClusterRole, "reader", "ann"));
    assert!(may(&policy, read));
    policy.put_binding(binding(Some("team"), "one", RoleKind::ClusterRole, "reader", "ben"));
    assert!(!may(&policy, read));
    policy.put_binding(binding(Some("team"), "one", RoleKind::ClusterRole, "reader", "ann"));
    policy.put_binding(binding(Some("team"), "two", RoleKind::ClusterRole, "reader", "ann"));
    policy.remove(bound(Some("team"), "one"));
    assert!(may(&policy, read));
    policy.remove(bound(None, "two"));
    policy.remove(bound(Some("elsewhere"), "two"));
    assert!(may(&policy, read));
    policy.remove(bound(Some("team"), "two"));
    assert!(!may(&policy, read));

    // The cluster's own, which can only grant a cluster role.
    policy.put_binding(binding(None, "all", RoleKind::Role, "reader", "ann"));
    assert!(!may(&policy, read) && !may(&policy, "get imagestreams"));
    policy.put_binding(binding(None, "all", RoleKind::ClusterRole, "reader", "ann"));
    assert!(may(&policy, read) && may(&policy, "get imagestreams"));
    policy.remove(bound(None, "all"));
    policy.remove(role(None, "reader", ""));
    policy.remove(role(Some("other"), "reader", ""));
    assert!(policy.namespaces.is_empty() && policy.cluster.is_empty(), "nothing is left behind");
    assert!(policy.cluster.users.is_empty());
}

#[test]
fn a_service_account_that_lies_nowhere_is_nobody() {
    let subjects = vec![Subject::ServiceAccount { namespace: None, name: "sa".to_owned() }];
    let all = Binding { subjects, ..binding(None, "all", RoleKind::ClusterRole, "reader", "") };
    let policy = Policy::new([role(None, "reader", "get")], [all]);
    for name in ["system:serviceaccount::sa", "system:serviceaccount:team:sa", "sa"] {
        assert_eq!(policy.decide(&caller(name), &wanted("get imagestreams")), Decision::Denied);
    }
}

#[tokio::test]
async fn a_decision_follows_the_policy_that_is_there() {
    let rbac = Rbac::default();
    let (ann, read) = (caller("ann"), wanted("get imagestreams/layers team/app"));
    assert_eq!(rbac.decide(&ann, &read).await.unwrap(), Decision::Denied);
    let all = binding(None, "all", RoleKind::ClusterRole, "reader", "ann");
    rbac.replace(Policy::new([role(None, "reader", "get")], [all]));
    let allowed = Decision::Allowed("ClusterRoleBinding all".into());
    assert_eq!(rbac.decide(&ann, &read).await.unwrap(), allowed);
    rbac.change(|policy| policy.remove(bound(None, "all")));
    assert_eq!(rbac.decide(&ann, &read).await.unwrap(), Decision::Denied);
}

#[test]
fn a_denial_says_what_is_missing_and_what_would_help() {
    let policy = policy(OBJECTS);
    let why = |who: &str, what: &str| policy.explain(&caller(who), &wanted(what)).to_string();
    assert_eq!(
        why("team:example-sa", "update imagestreams/layers team/app"),
        "RoleBinding team/pullers gives the user ClusterRole system:image-puller, which allows get only\n"
    );
    assert_eq!(
        why("bob+readers", "get imagestreams team/app"),
        "RoleBinding team/pullers gives the group readers ClusterRole system:image-puller, which says nothing of \
         this resource\n"
    );
    assert_eq!(
        why("gwen", "get imagestreams/layers team/app"),
        "RoleBinding team/gone gives the user Role no-such-role, which does not exist\n"
    );
    assert_eq!(
        why("wendy", "get imagestreams/layers team/app"),
        "RoleBinding team/web gives the user Role one-image, which allows it for deep/api, web only\n"
    );
    assert_eq!(why("alice", "get imagestreams/layers other/app"), "no binding there names the caller\n");
    assert_eq!(
        why("alice", "get imagestreams/layers team/app"),
        "RoleBinding team/pullers gives the user ClusterRole system:image-puller, which allows: \
         get imagestreams/layers in \"\",image.openshift.io\n"
    );

    let help = |who: &str, what: &[&str]| {
        let wanted: Vec<_> = what.iter().map(|what| wanted(what)).collect();
        policy.remedy(&caller(who), &wanted).map(|remedy| (remedy.kubectl, remedy.oc))
    };
    let of = |kubectl: &str, oc: &str| Some((kubectl.to_owned(), oc.to_owned()));
    let (pull, push) = ("get imagestreams/layers team/app", "update imagestreams/layers team/app");
    assert_eq!(
        help("tools:new", &[pull]),
        of(
            "kubectl create rolebinding image-puller-new --namespace=team --clusterrole=system:image-puller \
             --serviceaccount=tools:new",
            "oc policy add-role-to-user --namespace=team -- system:image-puller system:serviceaccount:tools:new"
        )
    );
    let (kubectl, _) = help("tools:new", &[pull, push]).unwrap();
    assert!(kubectl.contains("--clusterrole=system:image-builder "), "{kubectl}");
    assert_eq!(
        help("o'hara & co", &["get imagestreams/layers /alone"]),
        of(
            "kubectl create clusterrolebinding image-puller-o-hara---co --clusterrole=system:image-puller \
             --user='o'\\''hara & co'",
            "oc adm policy add-cluster-role-to-user -- system:image-puller 'o'\\''hara & co'"
        )
    );
    // The least role that will do; a role of the namespace counts there.
    let (kubectl, _) = help("bob", &["delete imagestreamtags team/app:v1"]).unwrap();
    assert!(kubectl.contains("--clusterrole=registry-editor "), "{kubectl}");
    let (kubectl, oc) = help("bob", &["create imagesignatures team"]).unwrap();
    assert!(kubectl.contains("--role=signer "), "{kubectl}");
    assert_eq!(oc, "oc policy add-role-to-user --namespace=team --role-namespace=team -- signer bob");
    let (kubectl, _) = help("bob", &["delete images"]).unwrap();
    assert!(kubectl.contains("--clusterrole=system:image-pruner "), "{kubectl}");
    assert_eq!(Policy::default().remedy(&caller("bob"), &[wanted(pull)]), None);
}

#[test]
fn the_remedy_does_what_it_promises() {
    let mut policy = policy(OBJECTS);
    let taken = binding(Some("team"), "image-puller-new", RoleKind::Role, "no-such-role", "x");
    policy.put_binding(taken);
    let remedy = policy.remedy(&caller("new"), &[wanted("get imagestreams/layers team/app")]).unwrap();
    assert!(remedy.kubectl.contains(" image-puller-new-2 "), "{}", remedy.kubectl);
    for (_, what, binding) in CASES {
        let wanted = wanted(what);
        let remedy = policy.remedy(&caller("new"), &[wanted]);
        let concerns_registries = matches!(wanted.group, "" | "image.openshift.io")
            && matches!(
                (wanted.resource, wanted.subresource),
                ("imagestreams", "" | "layers") | ("images" | "imagestreamtags" | "imagetags", "")
            );
        assert!(concerns_registries || remedy.is_none(), "{what}: {remedy:?}");
        assert!(binding.is_empty() || !concerns_registries || remedy.is_some(), "somebody may {what}");
        let Some(remedy) = remedy else { continue };
        let namespace = Some(wanted.namespace).filter(|namespace| !namespace.is_empty());
        let mut added = super::tests::binding(namespace, "added", RoleKind::Role, "", "new");
        added.role = remedy.role;
        policy.put_binding(added.clone());
        assert_ne!(policy.decide(&caller("new"), &wanted), Decision::Denied, "{what}");
        let secrets =
            ResourceAttributes { verb: "get", group: "", resource: "secrets", subresource: "", ..wanted };
        assert_eq!(policy.decide(&caller("new"), &secrets), Decision::Denied, "{what}");
        policy.remove(added);
    }
}

/// A role of rules that are written `groups`, `resources`, `verbs`, with `''` for the core group.
fn role_of(namespace: Option<&str>, name: &str, rules: &[[&str; 3]]) -> Role {
    let list = |words: &str| -> Vec<String> {
        words.split_whitespace().map(|word| word.trim_matches('\'').to_owned()).collect()
    };
    let rules = rules.iter().map(|[groups, resources, verbs]| PolicyRule {
        verbs: list(verbs),
        api_groups: list(groups),
        resources: list(resources),
        resource_names: vec![],
    });
    Role { namespace: namespace.map(str::to_owned), name: name.to_owned(), rules: rules.collect() }
}

#[test]
fn no_role_is_advised_that_reaches_beyond_registries() {
    const ALL: &str = "create delete deletecollection get list patch update watch";
    const LAYERS: [&str; 3] = ["'' image.openshift.io", "imagestreams/layers", "get update"];
    const STREAMS: [&str; 3] = ["'' image.openshift.io", "images imagestreams imagestreamtags", ALL];
    const SECRETS: [&str; 3] = ["''", "secrets serviceaccounts", ALL];
    let advised = |policy: &Policy, what: &[&str]| {
        let wanted: Vec<_> = what.iter().map(|what| wanted(what)).collect();
        policy.remedy(&caller("bob"), &wanted).map(|remedy| remedy.role.name)
    };
    let (pull, push) = ("get imagestreams/layers team/app", "update imagestreams/layers team/app");
    let (delete, delete_tag) = ("delete imagestreams team/app", "delete imagestreamtags team/app:1");

    // What clusters have without ours, and what others write who think of more than images.
    let reaching: [(&str, &[[&str; 3]]); 11] = [
        ("cluster-admin", &[["*", "*", "*"]]),
        ("admin", &[LAYERS, STREAMS, SECRETS, ["rbac.authorization.k8s.io", "rolebindings roles", ALL]]),
        ("edit", &[LAYERS, STREAMS, SECRETS, ["''", "pods/exec", "create"]]),
        ("system:controller:namespace-controller", &[["*", "*", "delete deletecollection get list"]]),
        ("system:controller:generic-garbage-collector", &[["*", "*", "delete get list patch update watch"]]),
        ("system:controller:resourcequota-controller", &[["*", "*", "list watch"]]),
        ("any-resource", &[["'' image.openshift.io", "*", "get"]]),
        ("any-group", &[["*", "imagestreams/layers", "get"]]),
        ("any-layers", &[["image.openshift.io", "*/layers", "get"]]),
        ("secrets-of-streams", &[LAYERS, ["image.openshift.io", "imagestreams/secrets", "get"]]),
        ("urls", &[LAYERS, STREAMS, ["", "", "get"]]),
    ];
    let mut policy = Policy::new(reaching.map(|(name, rules)| role_of(None, name, rules)), []);
    // Whoever may write roles in a namespace may call them as they like.
    for name in ["registry-editor", "system:image-builder"] {
        policy.put_role(role_of(Some("team"), name, &[LAYERS, STREAMS, SECRETS]));
    }
    for what in [
        &[pull][..],
        &[pull, push],
        &[delete],
        &[delete_tag],
        &["delete images"],
        &["list imagestreams"],
        &["get imagestreams/layers /alone"],
    ] {
        assert_eq!(advised(&policy, what), None, "{what:?}");
    }

    // OpenShift's own are, although they say more there; and of others the least that will do.
    policy.put_role(role_of(None, "registry-editor", &[LAYERS, STREAMS, SECRETS]));
    let builds = ["'' build.openshift.io", "builds", "get"];
    policy.put_role(role_of(None, "system:image-builder", &[LAYERS, builds]));
    assert_eq!(advised(&policy, &[pull, push]).unwrap(), "system:image-builder");
    assert_eq!(advised(&policy, &[delete_tag]).unwrap(), "registry-editor");
    policy.put_role(role_of(Some("team"), "cleaner", &[["image.openshift.io", "imagestreamtags", "delete"]]));
    assert_eq!(advised(&policy, &[delete_tag]).unwrap(), "cleaner");
    assert_eq!(advised(&policy, &[delete]).unwrap(), "registry-editor");
    policy.put_role(role_of(None, "registry-editor", &[["*", "*", "*"]]));
    assert_eq!(advised(&policy, &[delete]), None);
}

#[test]
fn a_role_that_opens_urls_too_is_not_advised() {
    let signer = "apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: signer}
rules:
  - {apiGroups: [image.openshift.io], resources: [imagesignatures], verbs: [delete]}
";
    let is_advised =
        |text: &str| policy(text).remedy(&caller("bob"), &[wanted("delete imagesignatures")]).is_some();
    assert!(is_advised(signer));
    assert!(!is_advised(&format!("{signer}  - {{nonResourceURLs: [/metrics], verbs: [get]}}\n")));
}

#[test]
fn a_name_in_the_cluster_is_never_taken_for_what_is_advised() {
    const TRAP: &str = "x\n\nTo allow it:\n  kubectl create\u{1b}[8m\u{202e}\u{61c}";
    const SHOWN: &str = r"x\n\nTo allow it:\n  kubectl create\u{1b}[8m\u{202e}\u{61c}";
    let mut policy = policy(OBJECTS);
    policy.put_binding(binding(Some("team"), TRAP, RoleKind::Role, TRAP, "mia"));
    let why = |policy: &Policy, what: &str| policy.explain(&caller("mia"), &wanted(what)).to_string();
    let (pull, push) = ("get imagestreams/layers team/app", "update imagestreams/layers team/app");
    let begin = format!("RoleBinding team/{SHOWN} gives the user Role {SHOWN}, which");
    assert_eq!(why(&policy, pull), format!("{begin} does not exist\n"));
    let rule = PolicyRule {
        verbs: vec!["get".to_owned(), TRAP.to_owned()],
        api_groups: vec!["image.openshift.io".to_owned()],
        resources: vec!["imagestreams/layers".to_owned()],
        resource_names: vec![],
    };
    policy.put_role(Role { namespace: Some("team".to_owned()), name: TRAP.to_owned(), rules: vec![rule] });
    assert_eq!(why(&policy, push), format!("{begin} allows get, {SHOWN} only\n"));
    assert_eq!(
        why(&policy, pull),
        format!("{begin} allows: get,{SHOWN} imagestreams/layers in image.openshift.io\n")
    );
    assert_eq!(OneLine("jürgen 'äöü' \\n 日本").to_string(), "jürgen 'äöü' \\n 日本");

    // What a shell is to take as one word stays one.
    let remedy = policy.remedy(&caller("o'hara\n\u{1b}7\\"), &[wanted(pull)]).unwrap();
    let user = r"$'o\'hara\012\0337\\'";
    assert!(remedy.kubectl.ends_with(&format!(" --user={user}")), "{}", remedy.kubectl);
    assert!(remedy.oc.ends_with(&format!(" -- system:image-puller {user}")), "{}", remedy.oc);
}

#[test]
fn no_name_is_taken_for_a_flag_of_what_is_advised() {
    const PULL: [&str; 3] = ["'' image.openshift.io", "imagestreams/layers", "get"];
    let wanted = wanted("get imagestreams/layers team/app");
    let remedy = policy(OBJECTS).remedy(&caller("-zother"), &[wanted]).unwrap();
    assert_eq!(
        remedy.kubectl,
        "kubectl create rolebinding image-puller--zother --namespace=team --clusterrole=system:image-puller \
         --user=-zother"
    );
    assert_eq!(remedy.oc, "oc policy add-role-to-user --namespace=team -- system:image-puller -zother");
    // A role may be called so, too.
    let roles = [role_of(None, "--namespace=other", &[PULL]), role_of(Some("team"), "-", &[PULL])];
    let mut policy = Policy::new(roles, []);
    let remedy = policy.remedy(&caller("ann"), &[wanted]).unwrap();
    assert_eq!(
        (&*remedy.kubectl, &*remedy.oc),
        (
            "kubectl create rolebinding ann --namespace=team --role=- --user=ann",
            "oc policy add-role-to-user --namespace=team --role-namespace=team -- - ann"
        )
    );
    let nobody = policy.remedy(&caller("日本"), &[wanted]).unwrap().kubectl;
    assert!(nobody.starts_with("kubectl create rolebinding binding --namespace=team "), "{nobody}");
    policy.remove(role_of(Some("team"), "-", &[]));
    let remedy = policy.remedy(&caller("ann"), &[wanted]).unwrap();
    assert!(
        remedy.kubectl.starts_with("kubectl create rolebinding namespace-other-ann --namespace=team "),
        "{}",
        remedy.kubectl
    );
    assert!(remedy.kubectl.contains(" --clusterrole='--namespace=other' "), "{}", remedy.kubectl);
    assert!(remedy.oc.ends_with(" --namespace=team -- '--namespace=other' ann"), "{}", remedy.oc);
}

#[test]
fn whoever_has_but_the_prefix_of_an_account_is_advised_for_as_a_user() {
    let policy = policy(OBJECTS);
    let flag = |name: &str| {
        let user = Identity { name: name.to_owned(), ..Identity::default() };
        let remedy = policy.remedy(&user, &[wanted("get imagestreams/layers team/app")]).unwrap();
        remedy.kubectl.rsplit_once(" --").unwrap().1.to_owned()
    };
    assert_eq!(flag("system:serviceaccount:tools:new.one"), "serviceaccount=tools:new.one");
    for name in ["bad", "", ":", "tools:", ":new", "tools:new:er", "tools:-new", "-tools:new"] {
        let name = format!("system:serviceaccount:{name}");
        assert_eq!(flag(&name), format!("user={name}"));
    }
}

/// What Kubernetes does, line by line: every binding in turn, every subject, every rule.
fn line_by_line(
    roles: &[Role],
    bindings: &[Binding],
    caller: &Identity,
    wanted: &ResourceAttributes<'_>,
) -> bool {
    let combined = match wanted.subresource {
        "" => wanted.resource.to_owned(),
        subresource => format!("{}/{subresource}", wanted.resource),
    };
    let has = |list: &[String], word: &str| list.iter().any(|entry| entry == word);
    let rule_allows = |rule: &PolicyRule| {
        let verb = has(&rule.verbs, "*") || has(&rule.verbs, wanted.verb);
        let group = has(&rule.api_groups, "*") || has(&rule.api_groups, wanted.group);
        let mut resource = has(&rule.resources, "*") || has(&rule.resources, &combined);
        if !wanted.subresource.is_empty() {
            resource |= has(&rule.resources, &format!("*/{}", wanted.subresource));
        }
        let name = rule.resource_names.is_empty() || has(&rule.resource_names, wanted.name);
        verb && group && resource && name
    };
    bindings.iter().any(|binding| {
        let counts = match binding.namespace.as_deref() {
            None => true,
            Some(namespace) => !wanted.namespace.is_empty() && namespace == wanted.namespace,
        };
        let names_caller = binding.subjects.iter().any(|subject| match subject {
            Subject::User(name) => caller.name == *name,
            Subject::Group(name) => caller.groups.contains(name),
            Subject::ServiceAccount { namespace, name } => {
                let namespace = namespace.as_ref().or(binding.namespace.as_ref());
                namespace.is_some_and(|namespace| {
                    caller.name == format!("system:serviceaccount:{namespace}:{name}")
                })
            }
        });
        let role = roles.iter().rev().find(|role| {
            role.name == binding.role.name
                && match binding.role.kind {
                    RoleKind::ClusterRole => role.namespace.is_none(),
                    RoleKind::Role => role.namespace.is_some() && role.namespace == binding.namespace,
                }
        });
        counts && names_caller && role.is_some_and(|role| role.rules.iter().any(rule_allows))
    })
}

const NAMESPACES: [&str; 3] = ["", "a", "b"];
const NAMES: [&str; 3] = ["x", "y", "a"];

fn words(from: &'static [&'static str], at_least: usize) -> impl Strategy<Value = Vec<String>> {
    subsequence(from, at_least..=from.len().min(2))
        .prop_map(|words| words.into_iter().map(str::to_owned).collect())
}

fn namespaces() -> impl Strategy<Value = Option<String>> {
    select(&NAMESPACES[..]).prop_map(|name| (!name.is_empty()).then(|| name.to_owned()))
}

prop_compose! {
    fn rules()(
        verbs in words(&["get", "update", "*"], 1),
        api_groups in words(&["", "g", "*"], 1),
        resources in words(&["r", "r/s", "*/s", "r/*", "*", "q"], 1),
        resource_names in words(&["x", "y", "", "*"], 0),
    ) -> PolicyRule {
        PolicyRule { verbs, api_groups, resources, resource_names }
    }
}

prop_compose! {
    fn roles()(
        namespace in namespaces(),
        name in select(&NAMES[..]),
        rules in prop::collection::vec(rules(), 0..3),
    ) -> Role {
        Role { namespace, name: name.to_owned(), rules }
    }
}

fn subjects() -> impl Strategy<Value = Subject> {
    let name = || select(&NAMES[..]).prop_map(str::to_owned);
    prop_oneof![
        name().prop_map(Subject::User),
        name().prop_map(Subject::Group),
        Just(Subject::User("system:serviceaccount:a:x".to_owned())),
        Just(Subject::Group("system:serviceaccounts:a".to_owned())),
        (namespaces(), name()).prop_map(|(namespace, name)| Subject::ServiceAccount { namespace, name }),
    ]
}

prop_compose! {
    fn bindings_of_any_kind()(
        namespace in namespaces(),
        name in select(&NAMES[..]),
        kind in select(&[RoleKind::Role, RoleKind::ClusterRole][..]),
        role in select(&NAMES[..]),
        subjects in prop::collection::vec(subjects(), 0..4),
    ) -> Binding {
        Binding {
            namespace,
            name: name.to_owned(),
            role: RoleRef { kind, name: role.to_owned() },
            subjects,
        }
    }
}

proptest! {
    #[test]
    fn any_policy_decides_as_if_it_were_read_line_by_line(
        roles in prop::collection::vec(roles(), 0..8),
        bindings in prop::collection::vec(bindings_of_any_kind(), 0..8),
        removed in prop::collection::vec(any::<bool>(), 8),
        asked in prop::collection::vec(
            (
                select(&["x", "a:x", "b:x", "y+a", "x+x+y", "a:y+x"][..]),
                select(&["get", "update", "delete"][..]),
                (select(&["", "g", "h"][..]), select(&["r", "q", "r/s"][..]), select(&["", "s", "*"][..])),
                select(&NAMESPACES[..]),
                select(&["x", "y", "", "*"][..]),
            ),
            1..16,
        ),
    ) {
        let mut policy = Policy::new(roles.clone(), bindings.clone());
        // Of the bindings of one name the last one counts, and some are taken away again.
        let mut left: Vec<Binding> = Vec::new();
        for binding in bindings {
            left.retain(|other| other.label() != binding.label());
            left.push(binding);
        }
        for (binding, removed) in left.clone().into_iter().zip(removed) {
            if removed {
                left.retain(|other| other.label() != binding.label());
                policy.remove(binding);
            }
        }
        for (who, verb, (group, resource, subresource), namespace, name) in asked {
            let caller = caller(who);
            let wanted = ResourceAttributes { verb, group, resource, subresource, namespace, name };
            let allowed = matches!(policy.decide(&caller, &wanted), Decision::Allowed(_));
            prop_assert_eq!(allowed, line_by_line(&roles, &left, &caller, &wanted), "{:?}", wanted);
            prop_assert_eq!(allowed, policy.allows(&caller, &wanted));
            prop_assert_eq!(allowed, policy.explain(&caller, &wanted).is_allowed());
        }
        // What nothing grants any more is forgotten, and all bindings share the reference to what they grant.
        let granted: HashSet<_> = left.iter().map(|binding| &binding.role).collect();
        prop_assert_eq!(policy.granted.iter().map(|role| &**role).collect::<HashSet<_>>(), granted);
        for scope in policy.namespaces.values().chain([&policy.cluster]) {
            let mentions = scope.users.values().chain(scope.groups.values()).flatten();
            let roles = scope.bindings.values().map(|bound| &bound.role).chain(mentions.map(|mention| &mention.role));
            for role in roles {
                prop_assert!(policy.granted.get(role).is_some_and(|shared| Arc::ptr_eq(shared, role)));
            }
        }
    }
}
