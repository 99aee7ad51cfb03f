//! `REGISTRY_*`: environment variables that replace what the file says, by distribution's rule.
//!
//! What follows the prefix is split at `_` and walks down the document; the value is YAML and replaces what stands
//! there, whole maps too: `REGISTRY_STORAGE=s3` drops the file's storage section. Variables are taken in the order of
//! their names, so `REGISTRY_STORAGE` comes before `REGISTRY_STORAGE_S3_BUCKET`. Lists are walked by index.
//!
//! Where distribution compares a part with the name of a Go field, both that name and the key's are understood. And
//! where it gives up on sections that are not in the file, or panics, they are made.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::document::{Content, Node, Origin};
use super::problem::Problem;

const PREFIX: &str = "REGISTRY_";

/// Names the file, and so is no part of what it says.
pub(super) const FILE_VARIABLE: &str = "REGISTRY_CONFIGURATION_PATH";

/// Go fields whose names differ from their keys: the key above, the field, the key.
const GO_FIELDS: [(&str, &str, &str); 4] = [
    ("health", "filecheckers", "file"),
    ("health", "httpcheckers", "http"),
    ("health", "tcpcheckers", "tcp"),
    // Not a field but OpenShift's own variable, REGISTRY_HTTP_TLS_MINVERSION.
    ("tls", "minversion", "minimumtls"),
];

/// OpenShift's own variable, a list with commas, and the key that it sets.
const CIPHER_SUITES: (&str, [&str; 3]) =
    ("OPENSHIFT_REGISTRY_HTTP_TLS_CIPHERSUITES", ["http", "tls", "ciphersuites"]);

/// Replaces in `root` what the environment says otherwise.
pub(super) fn apply(root: &mut Node, environment: &BTreeMap<String, String>, problems: &mut Vec<Problem>) {
    let (variable, path) = CIPHER_SUITES;
    if let Some(text) = environment.get(variable).filter(|text| !text.is_empty()) {
        let origin = Origin::Environment(Arc::from(variable));
        let words = text
            .split(',')
            .map(|word| Node { content: Content::Text(word.trim().to_owned()), origin: origin.clone() });
        let content = Content::List(words.collect());
        problems.extend(replace(root, "", &path, Node { content, origin }).err());
    }
    for (variable, text) in environment.iter().filter(|(variable, _)| *variable != FILE_VARIABLE) {
        let Some(path) = variable.strip_prefix(PREFIX) else { continue };
        let origin = Origin::Environment(Arc::from(variable.as_str()));
        let path: Vec<&str> = path.split('_').collect();
        let result = match Node::parse(text, &|_| origin.clone()) {
            Ok(value) => replace(root, "", &path, value),
            Err(malformed) => Err(Problem {
                origin,
                key: String::new(),
                what: format!("{}; put the value between quotes if it is a word", malformed.what),
            }),
        };
        problems.extend(result.err());
    }
}

/// Walks down from `node`, whose key is `parent`, and puts `value` where the path ends.
fn replace(node: &mut Node, parent: &str, path: &[&str], value: Node) -> Result<(), Problem> {
    let Some((part, rest)) = path.split_first() else {
        *node = value;
        return Ok(());
    };
    node.spell_out();
    if let Content::Nothing = node.content {
        node.content = Content::Map(Vec::new());
        node.origin = value.origin.clone();
    }
    match &mut node.content {
        Content::List(items) => {
            let length = items.len();
            match part.parse::<usize>() {
                Ok(index) if index < length => replace(&mut items[index], part, rest, value),
                Ok(index) if index == length => {
                    let mut item = Node::nothing(value.origin.clone());
                    replace(&mut item, part, rest, value)?;
                    items.push(item);
                    Ok(())
                }
                Ok(_) | Err(_) => Err(Problem {
                    origin: value.origin,
                    key: parent.to_owned(),
                    what: format!("{part} is no index of this list; the next one is {length}"),
                }),
            }
        }
        Content::Map(entries) => {
            let name = key(parent, part);
            let position = entries.iter().rposition(|(existing, _)| existing.eq_ignore_ascii_case(&name));
            if let Some(position) = position {
                replace(&mut entries[position].1, &name, rest, value)
            } else {
                let mut made = Node::nothing(value.origin.clone());
                replace(&mut made, &name, rest, value)?;
                entries.push((name, made));
                Ok(())
            }
        }
        Content::Nothing | Content::Text(_) => Ok(()),
    }
}

/// Tells which key a part of a variable's name stands for.
fn key(parent: &str, part: &str) -> String {
    let part = part.to_ascii_lowercase();
    let field = GO_FIELDS.iter().find(|(above, field, _)| *above == parent && *field == part);
    field.map_or(part, |(_, _, key)| (*key).to_owned())
}
