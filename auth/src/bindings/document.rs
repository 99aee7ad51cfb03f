//! Objects as they are written, in YAML or JSON, held to what the API server asks of them when they are applied.
//!
//! Stricter in one thing: of two equal keys it takes neither. And a field that is unknown is refused, as `kubectl` does:
//! a mistyped `resourceName` would otherwise lift the restriction that it was to be, a mistyped `namespace` mean
//! `default`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::{Map, Value};
use serde_saphyr::Spanned;

use super::aggregation::{ClusterRole, Selector};
use crate::PolicyRule;
use crate::rbac::{Binding, Role, RoleKind, RoleRef, Subject};

const GROUP: &str = "rbac.authorization.k8s.io";
const VERSION: &str = "rbac.authorization.k8s.io/v1";
const MAX_FILE_BYTES: usize = 16 * 1024 * 1024;

/// What a text holds.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) objects: Vec<At<Object>>,
    /// What is there and means nothing here.
    pub(super) ignored: Vec<At<String>>,
    pub(super) problems: Vec<At<String>>,
}

/// Something, and the line on which the document that it stands in begins.
#[derive(Debug)]
pub(super) struct At<T> {
    pub(super) line: u64,
    pub(super) it: T,
}

#[derive(Clone, Debug)]
pub(super) enum Object {
    Role(Role),
    ClusterRole(ClusterRole),
    Binding(Binding),
}

impl Object {
    /// What it is called: no other object may be called the same.
    pub(super) fn label(&self) -> String {
        match self {
            Self::Role(role) => {
                format!("Role {}/{}", role.namespace.as_deref().unwrap_or_default(), role.name)
            }
            Self::ClusterRole(role) => format!("ClusterRole {}", role.name),
            Self::Binding(binding) => binding.label(),
        }
    }
}

impl Contents {
    /// Reads all documents of a text.
    pub(super) fn read(text: &str) -> Self {
        let mut contents = Self::default();
        if text.len() > MAX_FILE_BYTES {
            let it = format!("it is larger than {MAX_FILE_BYTES} bytes; split it");
            contents.problems.push(At { line: 1, it });
            return contents;
        }
        let options = serde_saphyr::options! {
            budget: serde_saphyr::budget! {
                max_events: MAX_FILE_BYTES,
                max_nodes: MAX_FILE_BYTES,
                max_documents: MAX_FILE_BYTES,
            },
        };
        match serde_saphyr::from_multiple_with_options::<Spanned<Value>>(text, options) {
            Ok(documents) => {
                for document in documents {
                    contents.take(document.value, document.referenced.line(), None);
                }
            }
            Err(error) => {
                let line = error.location().map_or(1, |location| location.line());
                contents.problems.push(At { line, it: format!("not YAML: {}", error.without_snippet()) });
            }
        }
        contents
    }

    /// Takes one object, or a list of them, whose kind may tell that of its items.
    fn take(&mut self, value: Value, line: u64, default_kind: Option<&str>) {
        let problem = match self.sort(value, line, default_kind) {
            Ok(()) => return,
            Err(problem) => problem,
        };
        self.problems.push(At { line, it: problem });
    }

    fn sort(&mut self, value: Value, line: u64, default_kind: Option<&str>) -> Result<(), String> {
        let Value::Object(mut fields) = without_nulls(value) else {
            return Err("not an object: a document begins with apiVersion and kind".to_owned());
        };
        let mut word = |key: &str, default: Option<&str>| match fields.remove(key) {
            Some(Value::String(word)) => Ok(word),
            Some(_) => Err(format!("{key} is not a word")),
            None => default.map(str::to_owned).ok_or_else(|| format!("it has no {key}")),
        };
        let kind = word("kind", default_kind)?;
        let version = word("apiVersion", default_kind.map(|_| VERSION))?;
        let is_ours = version == VERSION;
        if kind == "List" && version == "v1" || is_ours && KINDS.iter().any(|of| is_list(&kind, of)) {
            let Some(Value::Array(items)) = fields.remove("items") else {
                return Err(format!("{kind}: items is not a list"));
            };
            let of = kind.strip_suffix("List").filter(|of| !of.is_empty());
            for item in items {
                self.take(item, line, of);
            }
            return Ok(());
        }
        if !version.starts_with("rbac.authorization.k8s.io/") {
            let it = format!("{kind} of {version} means nothing here and is ignored");
            self.ignored.push(At { line, it });
            return Ok(());
        }
        let name = fields.get("metadata").and_then(|metadata| metadata.get("name"));
        let called = match name.and_then(Value::as_str) {
            Some(name) => format!("{kind} {name}"),
            None => kind.clone(),
        };
        if !is_ours {
            return Err(format!("{called}: apiVersion {version} is no longer served; write {VERSION}"));
        }
        if !KINDS.contains(&kind.as_str()) {
            return Err(format!("{called}: {VERSION} has no such kind, but {}", KINDS.join(", ")));
        }
        let object = object(&kind, fields).map_err(|problem| format!("{called}: {problem}"))?;
        self.objects.push(At { line, it: object });
        Ok(())
    }
}

const KINDS: [&str; 4] = ["Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"];

fn is_list(kind: &str, of: &str) -> bool {
    kind.strip_suffix("List") == Some(of)
}

fn object(kind: &str, fields: Map<String, Value>) -> Result<Object, String> {
    Ok(match kind {
        "Role" => {
            let written: WrittenRole = typed(fields)?;
            Object::Role(Role {
                namespace: Some(written.metadata.namespace()?),
                name: written.metadata.name()?,
                rules: rules(written.rules, true)?,
            })
        }
        "ClusterRole" => {
            let written: WrittenClusterRole = typed(fields)?;
            let selectors = written.aggregation_rule.map(|rule| rule.cluster_role_selectors);
            if selectors.as_ref().is_some_and(Vec::is_empty) {
                return Err("aggregationRule.clusterRoleSelectors: at least one is needed".to_owned());
            }
            if let Some(problem) = selectors.iter().flatten().find_map(Selector::problem) {
                return Err(format!("aggregationRule.clusterRoleSelectors: {problem}"));
            }
            Object::ClusterRole(ClusterRole {
                name: written.metadata.name()?,
                rules: rules(written.rules, false)?,
                labels: written.metadata.labels,
                selectors,
            })
        }
        _ => {
            let is_namespaced = kind == "RoleBinding";
            let written: WrittenBinding = typed(fields)?;
            let namespace = if is_namespaced { Some(written.metadata.namespace()?) } else { None };
            let subjects = written.subjects.into_iter().enumerate().map(|(index, subject)| {
                subject.meant(is_namespaced).map_err(|problem| format!("subjects[{index}].{problem}"))
            });
            Object::Binding(Binding {
                namespace,
                name: written.metadata.name()?,
                role: written
                    .role_ref
                    .meant(is_namespaced)
                    .map_err(|problem| format!("roleRef.{problem}"))?,
                subjects: subjects.collect::<Result<_, _>>()?,
            })
        }
    })
}

fn typed<T: DeserializeOwned>(fields: Map<String, Value>) -> Result<T, String> {
    serde_path_to_error::deserialize(Value::Object(fields)).map_err(|error| {
        let path = error.path().to_string();
        let hint = match error.inner().to_string() {
            what if what.contains("expected a string") => format!("{what}; put it in quotes"),
            what => what,
        };
        if path == "." { hint } else { format!("{path}: {hint}") }
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenRole {
    metadata: Metadata,
    #[serde(default)]
    rules: Vec<WrittenRule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenClusterRole {
    metadata: Metadata,
    #[serde(default)]
    rules: Vec<WrittenRule>,
    aggregation_rule: Option<AggregationRule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenBinding {
    metadata: Metadata,
    role_ref: WrittenRoleRef,
    #[serde(default)]
    subjects: Vec<WrittenSubject>,
}

/// All that metadata may hold. Three fields matter here, the rest is the API server's.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "a field that is known is taken, whatever it says")]
struct Metadata {
    #[serde(default)]
    name: String,
    namespace: Option<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    annotations: Option<IgnoredAny>,
    creation_timestamp: Option<IgnoredAny>,
    deletion_grace_period_seconds: Option<IgnoredAny>,
    deletion_timestamp: Option<IgnoredAny>,
    finalizers: Option<IgnoredAny>,
    generate_name: Option<IgnoredAny>,
    generation: Option<IgnoredAny>,
    managed_fields: Option<IgnoredAny>,
    owner_references: Option<IgnoredAny>,
    resource_version: Option<IgnoredAny>,
    self_link: Option<IgnoredAny>,
    uid: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AggregationRule {
    #[serde(default)]
    cluster_role_selectors: Vec<Selector>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct WrittenRule {
    verbs: Vec<String>,
    api_groups: Vec<String>,
    resources: Vec<String>,
    resource_names: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct WrittenRoleRef {
    api_group: String,
    kind: String,
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct WrittenSubject {
    api_group: String,
    kind: String,
    name: String,
    namespace: String,
}

impl Metadata {
    fn name(&self) -> Result<String, String> {
        path_segment(&self.name).map_err(|problem| format!("metadata.name: {problem}"))
    }

    /// As `kubectl` takes it: what says nothing lies in `default`.
    fn namespace(&self) -> Result<String, String> {
        let namespace = self.namespace.as_deref().filter(|name| !name.is_empty()).unwrap_or("default");
        if is_dns_label(namespace) && namespace.len() <= 63 {
            Ok(namespace.to_owned())
        } else {
            Err(format!("metadata.namespace: {namespace:?} is no name of a namespace"))
        }
    }
}

/// A rule about URLs is one without resources: nobody asks a registry about them.
fn rules(written: Vec<WrittenRule>, is_namespaced: bool) -> Result<Vec<PolicyRule>, String> {
    let mut rules = Vec::with_capacity(written.len());
    for (index, rule) in written.into_iter().enumerate() {
        let WrittenRule { verbs, api_groups, resources, resource_names, non_resource_urls } = rule;
        let problem = if verbs.is_empty() {
            Some("verbs: at least one is needed")
        } else if !non_resource_urls.is_empty() {
            if is_namespaced {
                Some("nonResourceURLs: they lie in no namespace; write a ClusterRole")
            } else if !(api_groups.is_empty() && resources.is_empty() && resource_names.is_empty()) {
                Some("nonResourceURLs: a rule is about URLs or about resources; make it two")
            } else {
                None
            }
        } else if api_groups.is_empty() {
            Some("apiGroups: at least one is needed; the core group is \"\"")
        } else if resources.is_empty() {
            Some("resources: at least one is needed")
        } else {
            None
        };
        if let Some(problem) = problem {
            return Err(format!("rules[{index}].{problem}"));
        }
        rules.push(PolicyRule { verbs, api_groups, resources, resource_names });
    }
    Ok(rules)
}

impl WrittenRoleRef {
    fn meant(self, is_namespaced: bool) -> Result<RoleRef, String> {
        if !matches!(&*self.api_group, "" | GROUP) {
            return Err(format!("apiGroup: {:?} has no roles; write {GROUP}", self.api_group));
        }
        let kind = match &*self.kind {
            "ClusterRole" => RoleKind::ClusterRole,
            "Role" if is_namespaced => RoleKind::Role,
            "Role" => return Err("kind: a ClusterRoleBinding needs a ClusterRole".to_owned()),
            other => return Err(format!("kind: {other:?} is neither Role nor ClusterRole")),
        };
        Ok(RoleRef { kind, name: path_segment(&self.name).map_err(|problem| format!("name: {problem}"))? })
    }
}

impl WrittenSubject {
    fn meant(self, is_namespaced: bool) -> Result<Subject, String> {
        let Self { api_group, kind, name, namespace } = self;
        let named = |expected: &[&str]| {
            if name.is_empty() {
                Err("name: it is missing".to_owned())
            } else if !expected.contains(&&*api_group) {
                let remedy = expected.last().map_or_else(String::new, |last| format!("; write {last:?}"));
                Err(format!("apiGroup: {api_group:?} has no {kind}{remedy}"))
            } else {
                Ok(())
            }
        };
        match &*kind {
            "User" => named(&["", GROUP]).map(|()| Subject::User(name.clone())),
            "Group" => named(&["", GROUP]).map(|()| Subject::Group(name.clone())),
            "ServiceAccount" => {
                named(&[""])?;
                if name.len() > 253 || !name.split('.').all(is_dns_label) {
                    return Err(format!("name: {name:?} is no name of a service account"));
                }
                let namespace = Some(namespace).filter(|namespace| !namespace.is_empty());
                if namespace.is_none() && !is_namespaced {
                    return Err("namespace: it is missing, and a ClusterRoleBinding lies in none".to_owned());
                }
                Ok(Subject::ServiceAccount { namespace, name })
            }
            other => Err(format!("kind: {other:?} is none of User, Group, ServiceAccount")),
        }
    }
}

/// Names of roles and bindings are parts of URLs, and nothing more is asked of them.
fn path_segment(name: &str) -> Result<String, String> {
    if name.is_empty() {
        return Err("it is missing".to_owned());
    }
    if matches!(name, "." | "..") || name.contains(['/', '%']) {
        return Err(format!("{name:?} is no name: it is not . or .., and has no / and no %"));
    }
    Ok(name.to_owned())
}

fn is_dns_label(text: &str) -> bool {
    let is_inner = |letter: u8| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == b'-';
    !text.is_empty() && text.bytes().all(is_inner) && !text.starts_with('-') && !text.ends_with('-')
}

/// To the API server a field that is null is one that is not there.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(kept.map(|(key, value)| (key, without_nulls(value))).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value,
    }
}
