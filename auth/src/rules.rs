//! The rules that a role is made of, and what they cover: each part of an act is compared as Kubernetes compares it.
//!
//! `res` does not cover `res/sub`, `res/*` is no wildcard, and there is none for names either.

use std::fmt;

use crate::ResourceAttributes;

/// The resources that a registry knows. OpenShift's `imagestreams/secrets` are Secrets of the namespace.
const OF_REGISTRIES: [&str; 9] = [
    "images",
    "imagesignatures",
    "imagestreamimages",
    "imagestreammappings",
    "imagestreams",
    "imagestreams/layers",
    "imagestreams/status",
    "imagestreamtags",
    "imagetags",
];

/// One rule of a role: a list of what it covers for each part of an act, all of which an act must meet.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PolicyRule {
    /// What may be done; `*` is anything.
    pub verbs: Vec<String>,
    /// The API groups; `*` is any, and the core group is empty.
    pub api_groups: Vec<String>,
    /// `resource`, `resource/subresource`, `*/subresource` (of any resource) or `*` (everything).
    pub resources: Vec<String>,
    /// The names that it is restricted to, unless there are none.
    pub resource_names: Vec<String>,
}

impl PolicyRule {
    /// Tells whether the rule allows `wanted`.
    pub fn allows(&self, wanted: &ResourceAttributes<'_>) -> bool {
        self.covers_verb(wanted) && self.concerns(wanted) && self.covers_name(wanted)
    }

    /// Tells whether the rule says anything of the kind of resource that `wanted` names.
    pub fn concerns(&self, wanted: &ResourceAttributes<'_>) -> bool {
        let group = self.api_groups.iter().any(|group| group == "*" || group == wanted.group);
        group && self.resources.iter().any(|resource| covers_resource(resource, wanted))
    }

    /// Tells whether the rule allows the verb of `wanted`, of something.
    pub fn covers_verb(&self, wanted: &ResourceAttributes<'_>) -> bool {
        self.verbs.iter().any(|verb| verb == "*" || verb == wanted.verb)
    }

    /// Tells whether the rule is not restricted to other names. An act on all of them has the name "".
    pub fn covers_name(&self, wanted: &ResourceAttributes<'_>) -> bool {
        self.resource_names.is_empty() || self.resource_names.iter().any(|name| name == wanted.name)
    }

    /// Tells whether the rule is about what image registries know, and about nothing else. One without resources is
    /// about URLs.
    pub(crate) fn concerns_registries_alone(&self) -> bool {
        !self.resources.is_empty()
            && self.api_groups.iter().all(|group| matches!(group.as_str(), "" | "image.openshift.io"))
            && self.resources.iter().all(|resource| OF_REGISTRIES.contains(&resource.as_str()))
    }

    /// Tells whether the rule allows all of something, whatever there may be.
    pub(crate) fn has_wildcard(&self) -> bool {
        let lists = [&self.verbs, &self.api_groups, &self.resources];
        lists.into_iter().flatten().any(|entry| entry.starts_with('*'))
    }

    /// Tells roughly how much the rule allows, unless it has a wildcard, so that the lesser role can be advised.
    pub(crate) fn breadth(&self) -> usize {
        self.verbs.len().saturating_mul(self.api_groups.len()).saturating_mul(self.resources.len())
    }
}

impl fmt::Display for PolicyRule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { verbs, api_groups, resources, resource_names } = self;
        write!(formatter, "{} {}", verbs.join(","), resources.join(","))?;
        if !resource_names.is_empty() {
            write!(formatter, " named {}", resource_names.join(","))?;
        }
        let named = |group: &String| if group.is_empty() { "\"\"".to_owned() } else { group.clone() };
        write!(formatter, " in {}", api_groups.iter().map(named).collect::<Vec<_>>().join(","))
    }
}

/// Compares with `resource/subresource`, however `wanted` splits it; `*/subresource` takes one that is split off, since
/// that is what the API server compares.
fn covers_resource(entry: &str, wanted: &ResourceAttributes<'_>) -> bool {
    let ResourceAttributes { resource, subresource, .. } = *wanted;
    if subresource.is_empty() {
        return entry == "*" || entry == resource;
    }
    match entry.strip_suffix(subresource).and_then(|before| before.strip_suffix('/')) {
        Some(before) => before == "*" || before == resource,
        None => entry == "*",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(words: &str) -> Vec<String> {
        words.split_whitespace().map(|word| word.trim_matches('"').to_owned()).collect()
    }

    /// `verbs | groups | resources | names`, and what is asked: `verb group resource subresource name`.
    #[test]
    fn a_rule_covers_what_kubernetes_says() {
        for (rule, asked, allowed) in [
            // Verbs.
            ("get | g | res |", "get g res '' n", true),
            ("list get | g | res |", "get g res '' n", true),
            ("* | g | res |", "get g res '' n", true),
            ("Get | g | res |", "get g res '' n", false),
            ("g* | g | res |", "get g res '' n", false),
            ("| g | res |", "get g res '' n", false),
            // Groups.
            ("get | * | res |", "get g res '' n", true),
            ("get | * | res |", "get '' res '' n", true),
            ("get | \"\" | res |", "get '' res '' n", true),
            ("get | \"\" | res |", "get g res '' n", false),
            ("get | g | res |", "get '' res '' n", false),
            ("get | other g | res |", "get g res '' n", true),
            ("get | *.g | res |", "get x.g res '' n", false),
            ("get | | res |", "get '' res '' n", false),
            // Resources.
            ("get | g | * |", "get g res '' n", true),
            ("get | g | * |", "get g res sub n", true),
            ("get | g | |", "get g res '' n", false),
            ("get | g | res |", "get g res sub n", false),
            ("get | g | res/sub |", "get g res sub n", true),
            ("get | g | res/sub |", "get g res/sub '' n", true),
            ("get | g | res/sub |", "get g res '' n", false),
            ("get | g | res/sub |", "get g res other n", false),
            ("get | g | res/sub |", "get g other sub n", false),
            ("get | g | res/* |", "get g res sub n", false),
            ("get | g | res/* |", "get g res '' n", false),
            ("get | g | res/* |", "get g res * n", true),
            ("get | g | */sub |", "get g res sub n", true),
            ("get | g | */sub |", "get g res other n", false),
            ("get | g | */sub |", "get g res '' n", false),
            ("get | g | */sub |", "get g res/sub '' n", false),
            ("get | g | */ |", "get g res '' n", false),
            ("get | g | */* |", "get g res sub n", false),
            ("get | g | sub |", "get g res sub n", false),
            ("get | g | /sub |", "get g res sub n", false),
            ("get | g | xres/sub |", "get g res sub n", false),
            ("get | g | re* |", "get g res '' n", false),
            ("get | g | other res |", "get g res '' n", true),
            // Names.
            ("get | g | res | n", "get g res '' n", true),
            ("get | g | res | m n", "get g res '' n", true),
            ("get | g | res | m", "get g res '' n", false),
            ("get | g | res | *", "get g res '' n", false),
            ("get | g | res | *", "get g res '' *", true),
            ("get | g | res | n", "get g res '' ''", false),
            ("get | g | res | \"\"", "get g res '' ''", true),
            ("get | g | res | \"\"", "get g res '' n", false),
            ("get | g | res | n/deep", "get g res '' n/deep", true),
            ("get | g | res | n", "get g res '' n/deep", false),
            ("get | g | res |", "get g res '' ''", true),
        ] {
            let parts: Vec<&str> = rule.split('|').collect();
            let rule = PolicyRule {
                verbs: list(parts[0]),
                api_groups: list(parts[1]),
                resources: list(parts[2]),
                resource_names: list(parts[3]),
            };
            let words: Vec<&str> = asked.split(' ').map(|word| word.trim_matches('\'')).collect();
            let wanted = ResourceAttributes {
                verb: words[0],
                group: words[1],
                resource: words[2],
                subresource: words[3],
                name: words[4],
                namespace: "ns",
            };
            assert_eq!(rule.allows(&wanted), allowed, "{rule:?} {wanted:?}");
        }
    }
}
