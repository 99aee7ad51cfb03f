//! Cluster roles that are made of others: what a controller does in a cluster, and nobody does for a folder.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::PolicyRule;
use crate::rbac::Role;

/// A `ClusterRole` as it was written.
#[derive(Clone, Debug)]
pub(super) struct ClusterRole {
    pub(super) name: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) rules: Vec<PolicyRule>,
    /// The roles with one of these labels make up its rules, instead of its own. `None` if it has rules of its own.
    pub(super) selectors: Option<Vec<Selector>>,
}

/// A label selector: all of it must hold. An empty one selects everything.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Selector {
    #[serde(default)]
    match_labels: BTreeMap<String, String>,
    #[serde(default)]
    match_expressions: Vec<Expression>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expression {
    key: String,
    operator: Operator,
    #[serde(default)]
    values: Vec<String>,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

impl Selector {
    /// Tells why the API server would refuse it.
    pub(super) fn problem(&self) -> Option<&'static str> {
        self.match_expressions.iter().find_map(|expression| {
            match (expression.operator, expression.values.is_empty()) {
                (Operator::In | Operator::NotIn, true) => Some("In and NotIn need values"),
                (Operator::Exists | Operator::DoesNotExist, false) => {
                    Some("Exists and DoesNotExist take no values")
                }
                (Operator::In | Operator::NotIn, false)
                | (Operator::Exists | Operator::DoesNotExist, true) => None,
            }
        })
    }

    fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.match_expressions.iter().all(|Expression { key, operator, values }| {
                let value = labels.get(key);
                match operator {
                    Operator::In => value.is_some_and(|value| values.contains(value)),
                    Operator::NotIn => value.is_none_or(|value| !values.contains(value)),
                    Operator::Exists => value.is_some(),
                    Operator::DoesNotExist => value.is_none(),
                }
            })
    }
}

/// Carries out all aggregation, until nothing changes any more: an aggregated role may be part of another.
pub(super) fn aggregate(mut roles: Vec<ClusterRole>) -> impl Iterator<Item = Role> {
    roles.sort_by(|one, other| one.name.cmp(&other.name));
    let parts: Vec<(usize, Vec<usize>)> = roles
        .iter()
        .enumerate()
        .filter_map(|(index, role)| {
            let selectors = role.selectors.as_ref()?;
            let is_part = |(_, other): &(usize, &ClusterRole)| {
                selectors.iter().any(|selector| selector.selects(&other.labels))
            };
            let others = roles.iter().enumerate().filter(|(other, _)| *other != index);
            Some((index, others.filter(is_part).map(|(other, _)| other).collect()))
        })
        .collect();
    for (index, _) in &parts {
        roles[*index].rules.clear();
    }
    loop {
        let mut changed = false;
        for (index, parts) in &parts {
            for part in parts {
                for rule in roles[*part].rules.clone() {
                    if !roles[*index].rules.contains(&rule) {
                        roles[*index].rules.push(rule);
                        changed = true;
                    }
                }
            }
        }
        if !changed {
            break;
        }
    }
    roles.into_iter().map(|role| Role { namespace: None, name: role.name, rules: role.rules })
}
