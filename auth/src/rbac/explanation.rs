//! Why somebody may or may not, for people: which bindings name them there, what those lack, and which command would help.

use std::fmt::{self, Write as _};

use super::objects::label;
use super::{Policy, RoleKind, RoleRef, SERVICE_ACCOUNT_PREFIX};
use crate::{Identity, PolicyRule, ResourceAttributes};

/// The roles that are advised before any other that grants the same.
const PREFERRED: [&str; 3] = ["system:image-puller", "system:image-builder", "registry-viewer"];

/// Roles for image registries that on OpenShift say something of builds, workloads, projects or Secrets as well.
/// They are what is bound there.
const OF_OPENSHIFT: [&str; 4] =
    ["system:image-builder", "system:image-pruner", "registry-viewer", "registry-editor"];

/// Why a decision is what it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Explanation {
    /// Each binding that allows the act. There are none if it is denied.
    pub grants: Vec<Grant>,
    /// Each binding that names the caller there and does not allow it.
    pub shortfalls: Vec<Shortfall>,
}

/// A binding that allows an act.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Grant {
    /// The binding, such as `RoleBinding team/pullers`.
    pub binding: String,
    /// The role that it grants.
    pub role: RoleRef,
    /// The rule of the role that allows the act.
    pub rule: PolicyRule,
    /// The group by which the binding names the caller; `None` if it names the user.
    pub group: Option<String>,
}

/// A binding that names the caller and does not allow an act.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Shortfall {
    /// The binding.
    pub binding: String,
    /// The role that it grants.
    pub role: RoleRef,
    /// The group by which the binding names the caller; `None` if it names the user.
    pub group: Option<String>,
    /// What is missing.
    pub lack: Lack,
}

/// What a binding lacks to allow an act.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Lack {
    /// The role is not there.
    Role,
    /// No rule of the role concerns this kind of resource in this API group.
    Resource,
    /// The rules that concern it allow these verbs only.
    Verb(Vec<String>),
    /// The rules that allow the verb are for these names only.
    Name(Vec<String>),
}

/// What would allow what was denied.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Remedy {
    /// The role to bind.
    pub role: RoleRef,
    /// The command for any cluster.
    pub kubectl: String,
    /// The command for OpenShift.
    pub oc: String,
}

impl Policy {
    /// Tells why `caller` may or may not do what is `wanted`.
    pub fn explain(&self, caller: &Identity, wanted: &ResourceAttributes<'_>) -> Explanation {
        let mut explanation = Explanation { grants: Vec::new(), shortfalls: Vec::new() };
        self.find_naming(caller, wanted.namespace, |naming| {
            let binding = naming.mention.bound.label.to_string();
            let role = RoleRef::clone(&naming.mention.role);
            let group = naming.group.map(str::to_owned);
            let rules = self.rules(&naming);
            match rules.and_then(|rules| rules.iter().find(|rule| rule.allows(wanted))) {
                Some(rule) => {
                    explanation.grants.push(Grant { binding, role, rule: rule.clone(), group });
                }
                None => {
                    let lack = rules.map_or(Lack::Role, |rules| Lack::of(rules, wanted));
                    explanation.shortfalls.push(Shortfall { binding, role, group, lack });
                }
            }
            None::<()> // All of them are wanted.
        });
        explanation
    }

    /// Finds a role that allows `caller` all of `wanted`, as little more as may be, and how to bind it. All must lie in
    /// one namespace. There is none if no role for image registries allows that much: others, such as those of the
    /// cluster's own controllers, would give away its Secrets as well.
    pub fn remedy(&self, caller: &Identity, wanted: &[ResourceAttributes<'_>]) -> Option<Remedy> {
        let namespace = wanted.first()?.namespace;
        let cluster = self.cluster.roles.iter().map(|(name, rules)| (RoleKind::ClusterRole, name, rules));
        let local = self.namespaces.get(namespace).into_iter().flat_map(|scope| &scope.roles);
        let (_, _, kind, name) = cluster
            .chain(local.map(|(name, rules)| (RoleKind::Role, name, rules)))
            .filter(|(kind, name, rules)| is_for_registries(*kind, name, rules))
            .filter(|(_, _, rules)| wanted.iter().all(|wanted| rules.iter().any(|rule| rule.allows(wanted))))
            .map(|(kind, name, rules)| {
                let preference =
                    PREFERRED.iter().position(|preferred| is_cluster_role(kind, name, preferred));
                let breadth: usize = rules.iter().map(PolicyRule::breadth).sum();
                (preference.unwrap_or(PREFERRED.len()), breadth, kind, name)
            })
            .min_by_key(|(preference, breadth, _, name)| (*preference, *breadth, *name))?;
        Some(self.bind(caller, namespace, RoleRef { kind, name: name.to_string() }))
    }

    /// Tells whether a role allows what is `wanted` to whom it is given in the whole cluster.
    pub fn allows_in_cluster(&self, role: &RoleRef, wanted: &ResourceAttributes<'_>) -> bool {
        let rules = self.cluster.roles.get(role.name.as_str()).filter(|_| role.kind == RoleKind::ClusterRole);
        rules.is_some_and(|rules| rules.iter().any(|rule| rule.allows(wanted)))
    }

    fn bind(&self, caller: &Identity, namespace: &str, role: RoleRef) -> Remedy {
        let in_cluster = namespace.is_empty();
        let account = account(&caller.name);
        let short_name = account.map_or(caller.name.as_str(), |(_, name)| name);
        let base = format!("{}-{}", role.name.trim_start_matches("system:"), short_name);
        let base = base.replace(|letter: char| !letter.is_ascii_alphanumeric() && letter != '-', "-");
        // kubectl takes what begins with a hyphen for a flag, and no name after `--`.
        let base = match base.trim_start_matches('-') {
            "" => "binding".to_owned(),
            base => base.to_owned(),
        };
        let place = (!in_cluster).then_some(namespace);
        let bindings = self.namespaces.get(namespace).filter(|_| !in_cluster).unwrap_or(&self.cluster);
        let is_free = |name: &String| !bindings.bindings.contains_key(label(place, name).as_str());
        let numbered = (2..).map(|number| format!("{base}-{number}"));
        let binding = std::iter::once(base.clone()).chain(numbered).find(is_free).unwrap_or(base.clone());

        let (what, where_to) = match place {
            Some(namespace) => ("rolebinding", format!(" --namespace={}", quoted(namespace))),
            None => ("clusterrolebinding", String::new()),
        };
        let role_flag = match role.kind {
            RoleKind::Role => "role",
            RoleKind::ClusterRole => "clusterrole",
        };
        let whom = match account {
            Some((namespace, name)) => format!("--serviceaccount={namespace}:{name}"),
            None => format!("--user={}", quoted(&caller.name)),
        };
        let kubectl = format!(
            "kubectl create {what} {}{where_to} --{role_flag}={} {whom}",
            quoted(&binding),
            quoted(&role.name)
        );
        // After `--` nothing is a flag: a user may be called `-zother`, which would give the role to another.
        let names = format!("-- {} {}", quoted(&role.name), quoted(&caller.name));
        let oc = match (place, role.kind) {
            (None, _) => format!("oc adm policy add-cluster-role-to-user {names}"),
            (Some(namespace), RoleKind::ClusterRole) => {
                format!("oc policy add-role-to-user --namespace={} {names}", quoted(namespace))
            }
            (Some(namespace), RoleKind::Role) => {
                let namespace = quoted(namespace);
                format!(
                    "oc policy add-role-to-user --namespace={namespace} --role-namespace={namespace} {names}"
                )
            }
        };
        Remedy { role, kubectl, oc }
    }
}

impl Explanation {
    /// Tells whether the act is allowed.
    pub fn is_allowed(&self) -> bool {
        !self.grants.is_empty()
    }
}

impl Lack {
    /// Of the rules that come closest.
    fn of(rules: &[PolicyRule], wanted: &ResourceAttributes<'_>) -> Self {
        let concerning: Vec<&PolicyRule> = rules.iter().filter(|rule| rule.concerns(wanted)).collect();
        let listed = |lists: Vec<&Vec<String>>| -> Vec<String> {
            let mut words: Vec<String> = lists.into_iter().flatten().cloned().collect();
            words.sort_unstable();
            words.dedup();
            words
        };
        if concerning.is_empty() {
            return Self::Resource;
        }
        let of_verb: Vec<_> = concerning.iter().filter(|rule| rule.covers_verb(wanted)).collect();
        if of_verb.is_empty() {
            return Self::Verb(listed(concerning.iter().map(|rule| &rule.verbs).collect()));
        }
        Self::Name(listed(of_verb.into_iter().map(|rule| &rule.resource_names).collect()))
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let through = |group: &Option<String>| match group {
            Some(group) => format!("the group {group}"),
            None => "the user".to_owned(),
        };
        for Grant { binding, role, rule, group } in &self.grants {
            let line = format!("{binding} gives {} {role}, which allows: {rule}", through(group));
            writeln!(formatter, "{}", OneLine(&line))?;
        }
        if self.is_allowed() {
            return Ok(());
        }
        if self.shortfalls.is_empty() {
            writeln!(formatter, "no binding there names the caller")?;
        }
        for Shortfall { binding, role, group, lack } in &self.shortfalls {
            let line = format!("{binding} gives {} {role}, {lack}", through(group));
            writeln!(formatter, "{}", OneLine(&line))?;
        }
        Ok(())
    }
}

impl fmt::Display for Lack {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Role => write!(formatter, "which does not exist"),
            Self::Resource => write!(formatter, "which says nothing of this resource"),
            Self::Verb(verbs) => write!(formatter, "which allows {} only", verbs.join(", ")),
            Self::Name(names) => {
                let shown = names.iter().map(|name| if name.is_empty() { "\"\"" } else { name });
                write!(formatter, "which allows it for {} only", shown.collect::<Vec<_>>().join(", "))
            }
        }
    }
}

/// A text that others chose, to be printed among lines of ours. Names in a cluster may hold line breaks and commands
/// to a terminal, which would let them look like advice: those are shown as escapes.
#[derive(Clone, Copy, Debug)]
pub struct OneLine<'a>(pub &'a str);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|letter| {
            if is_control(letter) {
                write!(formatter, "{}", letter.escape_debug())
            } else {
                formatter.write_char(letter)
            }
        })
    }
}

/// Whether a letter is not shown but does something to others: breaks their line, overwrites them, turns them about.
fn is_control(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Whether a role is there to be bound to those who use an image registry: it says nothing of anything else, or
/// OpenShift has it for them.
fn is_for_registries(kind: RoleKind, name: &str, rules: &[PolicyRule]) -> bool {
    let is_of_openshift = OF_OPENSHIFT.iter().any(|known| is_cluster_role(kind, name, known));
    let is_harmless = |rule: &PolicyRule| is_of_openshift || rule.concerns_registries_alone();
    rules.iter().all(|rule| is_harmless(rule) && !rule.has_wildcard())
}

/// Whether it is the role of the cluster that has this name, and none of a namespace that somebody called the same.
fn is_cluster_role(kind: RoleKind, name: &str, known: &str) -> bool {
    kind == RoleKind::ClusterRole && name == known
}

/// The namespace and the name of the service account that a user is. A user who has but the prefix of one is none that
/// kubectl takes for one, and a binding can name them as a user alone.
fn account(user: &str) -> Option<(&str, &str)> {
    let account = user.strip_prefix(SERVICE_ACCOUNT_PREFIX)?.split_once(':')?;
    let is_name = |text: &str| {
        text.starts_with(|letter: char| letter.is_ascii_alphanumeric())
            && text.chars().all(|letter| letter.is_ascii_alphanumeric() || "-.".contains(letter))
    };
    (is_name(account.0) && is_name(account.1)).then_some(account)
}

/// A word for a shell.
fn quoted(word: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_.:@/".contains(letter);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    if !word.contains(is_control) {
        return format!("'{}'", word.replace('\'', r"'\''"));
    }
    let mut text = "$'".to_owned();
    for letter in word.chars() {
        match letter {
            '\'' | '\\' => text.extend(['\\', letter]),
            // Three digits, so that none which follow are taken for more of it.
            _ if is_control(letter) => {
                text.extend(letter.encode_utf8(&mut [0; 4]).bytes().map(|byte| format!("\\{byte:03o}")));
            }
            _ => text.push(letter),
        }
    }
    text + "'"
}
