use std::fs;
use std::os::unix::fs::symlink;

use proptest::prelude::*;

use super::*;
use crate::{Decision, Identity, ResourceAttributes};

const BINDING: &str = "apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: pullers, namespace: team}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: system:image-puller}
subjects: [{kind: User, name: alice, apiGroup: rbac.authorization.k8s.io}]
";

fn loaded(text: &str) -> Result<Loaded, String> {
    load(&[("f.yaml".to_owned(), text.as_bytes().to_vec())]).map_err(|problems| problems.to_string())
}

fn may(policy: &Policy, user: &str, namespace: &str) -> bool {
    let caller = Identity { name: user.to_owned(), ..Identity::default() };
    let wanted = ResourceAttributes {
        verb: "get",
        group: "image.openshift.io",
        resource: "imagestreams",
        subresource: "layers",
        namespace,
        name: "app",
    };
    policy.decide(&caller, &wanted) != Decision::Denied
}

#[test]
fn all_that_kubectl_takes_is_read() {
    let json = r#"{"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
	"metadata": {"name": "j", "namespace": "json", "creationTimestamp": null, "annotations": {"a/b": "\ud83d\ude00"}},
	"roleRef": {"kind": "ClusterRole", "name": "view"}, "subjects": [{"kind": "User", "name": "alice"}]}"#;
    let list = "---
# nothing but a comment
---
apiVersion: v1
kind: List
metadata: {resourceVersion: \"\"}
items:
  - apiVersion: rbac.authorization.k8s.io/v1
    kind: RoleBinding
    metadata: {name: b, namespace: one}
    roleRef: {kind: Role, name: r}
    subjects: &people [{kind: User, name: alice}]
  - apiVersion: rbac.authorization.k8s.io/v1
    kind: RoleBinding
    metadata: {name: b, namespace: two}
    roleRef: {kind: Role, name: r}
    subjects: *people
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleList
items:
  - metadata: {name: r, namespace: one, uid: x, managedFields: [{f: {}}]}
    rules: [{apiGroups: ['*'], resources: ['*'], verbs: ['*'], resourceNames: null}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: empty, labels: null}
rules: null
";
    // As `kubectl get --show-managed-fields --output=yaml` prints it.
    let got = "apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  annotations: {kubectl.kubernetes.io/last-applied-configuration: '{}'}
  creationTimestamp: \"2026-01-01T00:00:00Z\"
  deletionGracePeriodSeconds: 0
  deletionTimestamp: \"2026-01-02T00:00:00Z\"
  finalizers: [example.com/kept]
  generateName: pullers-
  generation: 1
  labels: {a: b}
  managedFields: [{apiVersion: rbac.authorization.k8s.io/v1, fieldsV1: {'f:roleRef': {}}, manager: kubectl}]
  name: pullers-x7k2p
  namespace: got
  ownerReferences: [{apiVersion: v1, kind: ConfigMap, name: owner, uid: x}]
  resourceVersion: \"12\"
  selfLink: /apis/rbac.authorization.k8s.io/v1/namespaces/got/rolebindings/pullers-x7k2p
  uid: 0b8b1b5e-8a3e-4d6f-9d53-3ab1c1a1d0f5
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: alice}]
";
    let files = [("a.json", json), ("b.yaml", list), ("c.yaml", got)];
    let files = files.map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec()));
    let Loaded { policy, remarks } = load(&files).map_err(|problems| problems.to_string()).unwrap();
    for namespace in ["json", "one", "got"] {
        assert!(may(&policy, "alice", namespace), "{namespace}");
    }
    assert!(!may(&policy, "alice", "two"));
    let remarks: Vec<String> = remarks.iter().map(ToString::to_string).collect();
    assert_eq!(remarks, ["b.yaml:4: RoleBinding two/b grants nothing: there is no Role r"]);
}

#[test]
fn what_means_nothing_is_passed_over_and_named() {
    let text = format!(
        "apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: sa}}\n---\n{BINDING}---\n\
         apiVersion: authorization.openshift.io/v1\nkind: RoleBinding\nmetadata: {{name: x}}\nroleRef: {{name: y}}\n"
    );
    let Loaded { policy, remarks } = loaded(&text).unwrap();
    assert!(may(&policy, "alice", "team"));
    let remarks: Vec<String> = remarks.iter().map(ToString::to_string).collect();
    assert_eq!(
        remarks,
        [
            "f.yaml:1: ServiceAccount of v1 means nothing here and is ignored",
            "f.yaml:11: RoleBinding of authorization.openshift.io/v1 means nothing here and is ignored",
        ]
    );
}

#[test]
fn what_the_api_server_would_refuse_is_refused_by_name() {
    let role = |rule: &str| {
        format!(
            "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {{name: r}}\nrules:\n  - {rule}\n"
        )
    };
    let cluster_role = |rest: &str| {
        format!(
            "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {{name: r}}\n{rest}\n"
        )
    };
    let change = |from: &str, to: &str| {
        assert!(BINDING.contains(from), "{from}");
        BINDING.replace(from, to)
    };
    let cluster = |from: &str, to: &str| change(from, to).replace("RoleBinding", "ClusterRoleBinding");
    let subject = "{kind: User, name: alice, apiGroup: rbac.authorization.k8s.io}";
    for (text, problem) in [
        ("a: [".to_owned(), "f.yaml:1: not YAML: "),
        ("- 1\n".to_owned(), "f.yaml:1: not an object: a document begins with apiVersion and kind"),
        ("a: 1\n".to_owned(), "f.yaml:1: it has no kind"),
        ("kind: Role\n".to_owned(), "f.yaml:1: it has no apiVersion"),
        (format!("{BINDING}kind: Role\n"), "f.yaml:6: not YAML: duplicate mapping key: kind"),
        (
            change("kind: RoleBinding", "kind: Rolebinding"),
            "Rolebinding pullers: rbac.authorization.k8s.io/v1 has no",
        ),
        (change("/v1\n", "/v1beta1\n"), "apiVersion rbac.authorization.k8s.io/v1beta1 is no longer served"),
        (change("name: pullers, ", ""), "f.yaml:1: RoleBinding: metadata.name: it is missing"),
        (change("pullers", "a/b"), "RoleBinding a/b: metadata.name: \"a/b\" is no name"),
        (change("pullers", "a%b"), "metadata.name: \"a%b\" is no name"),
        (change("pullers", ".."), "metadata.name: \"..\" is no name"),
        (
            change("namespace: team", "namespace: Team"),
            "metadata.namespace: \"Team\" is no name of a namespace",
        ),
        (
            change("namespace: team", "nmespace: team"),
            "RoleBinding pullers: metadata.nmespace: unknown field `nmespace`",
        ),
        (cluster_role("rules: []").replace("name: r", "name: r, label: {a: b}"), "unknown field `label`"),
        (change("namespace: team", "namespace: 12"), "metadata.namespace: invalid type: integer `12`"),
        (
            change("name: alice", "name: yes"),
            "subjects[0].name: invalid type: boolean `true`, expected a string; put it",
        ),
        (change("kind: ClusterRole", "kind: role"), "roleRef.kind: \"role\" is neither Role nor ClusterRole"),
        (change(", name: system:image-puller", ""), "roleRef.name: it is missing"),
        (
            change("roleRef: {apiGroup: rbac.authorization.k8s.io", "roleRef: {apiGroup: v1"),
            "roleRef.apiGroup: \"v1\"",
        ),
        (change("roleRef:", "roleref:"), "unknown field `roleref`"),
        (
            cluster("kind: ClusterRole,", "kind: Role,"),
            "roleRef.kind: a ClusterRoleBinding needs a ClusterRole",
        ),
        (cluster(subject, "{kind: ServiceAccount, name: sa}"), "subjects[0].namespace: it is missing"),
        (change(subject, "{kind: Robot, name: r}"), "subjects[0].kind: \"Robot\" is none of User, Group,"),
        (change(subject, "{kind: User}"), "subjects[0].name: it is missing"),
        (change(subject, "{kind: User, name: a, apiGroup: v1}"), "subjects[0].apiGroup: \"v1\" has no User"),
        (
            change(subject, "{kind: ServiceAccount, name: a, apiGroup: rbac.authorization.k8s.io}"),
            "subjects[0].apiGroup: \"rbac.authorization.k8s.io\" has no ServiceAccount; write \"\"",
        ),
        (
            change(subject, "{kind: ServiceAccount, name: a:b}"),
            "subjects[0].name: \"a:b\" is no name of a service",
        ),
        (change(subject, "{kind: User, name: a, names: b}"), "subjects[0].names: unknown field `names`"),
        (role("{apiGroups: ['*'], resources: ['*']}"), "Role r: rules[0].verbs: at least one is needed"),
        (role("{verbs: [get], resources: ['*']}"), "rules[0].apiGroups: at least one is needed"),
        (role("{verbs: [get], apiGroups: ['*']}"), "rules[0].resources: at least one is needed"),
        (
            role("{verbs: get, apiGroups: ['*'], resources: [a]}"),
            "rules[0].verbs: invalid type: string \"get\"",
        ),
        (
            role("{verbs: [get], apiGroups: ['*'], resources: [a], resourceName: [b]}"),
            "rules[0].resourceName: unknown field `resourceName`",
        ),
        (role("{verbs: [get], nonResourceURLs: [/]}"), "rules[0].nonResourceURLs: they lie in no namespace"),
        (
            cluster_role("rules: [{verbs: [get], nonResourceURLs: [/], resources: [a]}]"),
            "rules[0].nonResourceURLs: a rule is about URLs or about resources",
        ),
        (cluster_role("aggregationRule: {}"), "clusterRoleSelectors: at least one is needed"),
        (
            cluster_role(
                "aggregationRule: {clusterRoleSelectors: [{matchExpressions: [{key: a, operator: In}]}]}",
            ),
            "clusterRoleSelectors: In and NotIn need values",
        ),
        (
            format!("{BINDING}---\n{BINDING}"),
            "f.yaml:7: RoleBinding team/pullers is also in f.yaml:1; remove one",
        ),
    ] {
        let error = loaded(&text).map(|_| ()).unwrap_err();
        assert!(error.contains(problem), "{error}\nhas no: {problem}\n{text}");
    }
    let error = load(&[("bad.yaml".to_owned(), vec![0xff])]).map(|_| ()).unwrap_err();
    assert_eq!(error.to_string(), "bad.yaml:1: it is not UTF-8");
}

#[test]
fn all_that_is_wrong_is_told_at_once() {
    let text = format!("{}---\n{}", BINDING.replace("alice", "''"), BINDING.replace("pullers", "a/b"));
    let error = loaded(&text).map(|_| ()).unwrap_err();
    assert_eq!(error.lines().count(), 2, "{error}");
}

#[test]
fn a_cluster_role_is_made_of_those_that_it_selects() {
    let role = |name: &str, labels: &str, rest: &str| {
        format!(
            "---\napiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\n\
             metadata: {{name: {name}, labels: {labels}}}\n{rest}\n"
        )
    };
    let pull = "rules: [{apiGroups: [image.openshift.io], resources: [imagestreams/layers], verbs: [get]}]";
    let selecting = |selector: &str| format!("aggregationRule: {{clusterRoleSelectors: [{selector}]}}");
    let bound = |role: &str| {
        format!(
            "---\napiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata: {{name: b}}\n\
             roleRef: {{kind: ClusterRole, name: {role}}}\nsubjects: [{{kind: User, name: alice}}]\n"
        )
    };
    for (selector, selects) in [
        ("{matchLabels: {a: x}}", true),
        ("{matchLabels: {a: z}}", false),
        ("{matchLabels: {a: x, b: z}}", false),
        ("{matchLabels: {b: z}}, {matchLabels: {a: x}}", true),
        ("{matchExpressions: [{key: a, operator: In, values: [w, x]}]}", true),
        ("{matchExpressions: [{key: a, operator: In, values: [w]}]}", false),
        ("{matchExpressions: [{key: a, operator: Exists}]}", true),
        ("{matchExpressions: [{key: b, operator: Exists}]}", false),
        ("{matchLabels: {a: x}, matchExpressions: [{key: a, operator: NotIn, values: [w]}]}", true),
        ("{matchLabels: {a: x}, matchExpressions: [{key: a, operator: NotIn, values: [x]}]}", false),
        ("{matchLabels: {a: x}, matchExpressions: [{key: b, operator: DoesNotExist}]}", true),
        ("{matchLabels: {a: x}, matchExpressions: [{key: a, operator: DoesNotExist}]}", false),
        ("{}", true),
    ] {
        let text =
            role("part", "{a: x}", pull) + &role("whole", "{c: c}", &selecting(selector)) + &bound("whole");
        assert_eq!(may(&loaded(&text).unwrap().policy, "alice", "team"), selects, "{selector}");
    }

    // Roles that are made of others are parts of others, also in a circle; rules of their own do not count.
    let ring = role("one", "{n: '1'}", &selecting("{matchLabels: {n: '2'}}"))
        + &role("two", "{n: '2'}", &selecting("{matchLabels: {n: '3'}}"))
        + &role("three", "{n: '3'}", &selecting("{matchLabels: {n: '1'}}, {matchLabels: {n: part}}"));
    let part = role("part", "{n: part}", pull);
    assert!(may(&loaded(&(ring.clone() + &part + &bound("one"))).unwrap().policy, "alice", "team"));
    assert!(!may(&loaded(&(ring + &bound("one"))).unwrap().policy, "alice", "team"));
    let own = role("whole", "{}", &format!("{pull}\n{}", selecting("{matchLabels: {n: none}}")));
    assert!(!may(&loaded(&(own + &bound("whole"))).unwrap().policy, "alice", "team"));
}

#[test]
fn a_folder_may_define_what_is_built_in() {
    let puller = "---\napiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\n\
                  metadata: {name: system:image-puller}\n";
    assert!(may(&loaded(BINDING).unwrap().policy, "alice", "team"));
    assert!(!may(&loaded(&format!("{BINDING}{puller}")).unwrap().policy, "alice", "team"));
}

#[test]
fn what_is_shipped_is_right() {
    for text in BUILT_IN.into_iter().chain([include_str!("../../../../deploy/rbac/credential-provider.yaml")])
    {
        let contents = Contents::read(text);
        assert!(contents.problems.is_empty() && contents.ignored.is_empty(), "{contents:?}");
    }
    assert_eq!(built_in().count(), 11);
    assert!(load(&[]).unwrap().remarks.is_empty());
}

#[test]
fn a_changed_folder_is_used_and_a_wrong_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("team.yaml");
    fs::write(&file, BINDING).unwrap();
    fs::write(folder.path().join("README.md"), "kind: [").unwrap();
    fs::write(folder.path().join(".hidden.yaml"), "kind: [").unwrap();
    fs::create_dir(folder.path().join("sub.yaml")).unwrap();
    let read = Folder::open(folder.path()).unwrap();
    let may = |user: &str| read.authorizer().read(|policy| may(policy, user, "team"));
    assert!(may("alice"));

    fs::write(&file, BINDING.replace("alice", "bob")).unwrap();
    assert!(may("alice"), "nobody has looked yet");
    read.use_if_new();
    assert!(!may("alice") && may("bob") && !read.is_refused());

    // One wrong file, and nothing of the change counts.
    fs::write(folder.path().join("more.yml"), BINDING.replace("team", "more")).unwrap();
    fs::write(&file, BINDING.replace("alice", "carol").replace("subjects", "subject")).unwrap();
    read.use_if_new();
    assert!(may("bob") && !may("carol") && read.is_refused());
    fs::remove_file(&file).unwrap();
    symlink("nowhere", &file).unwrap();
    read.use_if_new();
    assert!(may("bob"));
    fs::remove_file(&file).unwrap();
    read.use_if_new();
    assert!(!may("bob") && !read.is_refused());
}

#[test]
fn files_that_seem_to_be_the_same_are_read_once_a_minute() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("team.yaml");
    fs::write(&file, BINDING).unwrap();
    let read = Folder::open(folder.path()).unwrap();
    let may = |user: &str| read.authorizer().read(|policy| may(policy, user, "team"));
    let change = |from: &str, to: &str, are_settled: bool, age: Duration| {
        assert!(may(from));
        fs::write(&file, BINDING.replace("alice", to)).unwrap();
        // As if the file system's clock had not moved on.
        let stamps = stamps(folder.path()).unwrap();
        let taken = Instant::now().checked_sub(age).unwrap();
        read.seen.lock().unwrap().found.look = Look { stamps, taken, are_settled };
        read.use_if_new();
        may(to)
    };
    assert!(!read.seen.lock().unwrap().found.look.are_settled, "it has just been written");
    assert!(change("alice", "bobby", false, Duration::ZERO));
    assert!(!change("bobby", "carol", true, Duration::ZERO));
    assert!(change("bobby", "david", true, UNREAD_FOR));
}

#[test]
fn what_kubernetes_mounts_is_followed() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for (version, user) in [("..1", "alice"), ("..2", "bob")] {
        fs::create_dir(path(version)).unwrap();
        fs::write(path(version).join("team.yaml"), BINDING.replace("alice", user)).unwrap();
    }
    symlink("..1", path("..data")).unwrap();
    symlink("..data/team.yaml", path("team.yaml")).unwrap();
    let read = Folder::open(folder.path()).unwrap();
    let may = |user: &str| read.authorizer().read(|policy| may(policy, user, "team"));
    assert!(may("alice"));
    symlink("..2", path("..data_tmp")).unwrap();
    fs::rename(path("..data_tmp"), path("..data")).unwrap();
    read.use_if_new();
    assert!(!may("alice") && may("bob"));
}

#[test]
fn a_change_is_found_along_with_the_other_files() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("team.yaml"), BINDING).unwrap();
    let (read, files) = (Folder::open(folder.path()).unwrap(), Files::new());
    let rbac = read.authorizer();
    read.reread_with(&files);
    fs::write(folder.path().join("team.yaml"), BINDING.replace("alice", "bob")).unwrap();
    files.use_what_is_new();
    assert!(rbac.read(|policy| may(policy, "bob", "team")));
}

#[test]
fn a_folder_that_cannot_be_used_is_an_error_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let absent = folder.path().join("absent");
    let error = Folder::open(&absent).unwrap_err();
    assert_eq!(error.to_string(), format!("cannot read {}", absent.display()));
    let file = folder.path().join("wrong.yaml");
    fs::write(&file, "kind: Role\n").unwrap();
    let error = Folder::open(folder.path()).unwrap_err();
    assert_eq!(error.to_string(), format!("{}:1: it has no apiVersion", file.display()));
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(
        text in prop_oneof![
            any::<String>(),
            prop::collection::vec(
                prop::sample::select(&[
                    "apiVersion: rbac.authorization.k8s.io/v1\n", "kind: RoleBinding\n", "kind: Role\n", "---\n",
                    "kind: List\napiVersion: v1\n", "items:\n", "  - ", "metadata: {name: x}\n", "rules:\n", "rules: [{}]\n",
                    "roleRef: {kind: Role, name: x}\n", "subjects: [{kind: User}]\n", "null", "&a ", "*a ", "<<: ", "[", "{", "\t",
                    "aggregationRule: {clusterRoleSelectors: [{}]}\n", "kind: ClusterRole\n", "!!binary ", "| \n", "'", "\"",
                ][..]),
                0..24,
            )
            .prop_map(|parts| parts.concat()),
        ],
    ) {
        match loaded(&text) {
            Ok(loaded) => prop_assert!(loaded.remarks.iter().all(|remark| remark.line > 0)),
            Err(problems) => prop_assert!(problems.starts_with("f.yaml:")),
        }
    }
}
