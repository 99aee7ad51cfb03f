//! Reads the keys of one section, and so knows which keys there are.
//!
//! Each key is named once, by the call that reads it, with its default and what it does. From these calls come the
//! values, the problems, where each value came from, and the list of all keys that `docs/configuration.md` shows: a
//! key that is not asked for is unknown. So every key is asked for in every reading, whatever the others say.

use std::fmt;
use std::path::{Path, PathBuf};

use super::Secret;
use super::document::{Content, Node, Origin};
use super::problem::Problem;
use super::value::{self, Value, quoted};

/// A key that exists.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Key {
    /// As in `http.tls.key`; an item of a list is `[]`.
    pub path: String,
    /// What may be written, as in "a duration".
    pub value: String,
    /// What holds when it is not written, if anything does.
    pub default: Option<String>,
    /// What it does.
    pub effect: Effect,
}

impl fmt::Display for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "- `{}` ", self.path)?;
        match (&self.effect, &self.default) {
            (Effect::Works(about), None) => write!(formatter, "({}): {about}", self.value),
            (Effect::Works(about), Some(default)) => {
                write!(formatter, "({}; default `{default}`): {about}", self.value)
            }
            (Effect::Alias(of), _) => write!(formatter, "**the same as** `{of}`."),
            (Effect::Ignored(instead), _) => write!(formatter, "**ignored**: {instead}."),
            (Effect::Refused(why), _) => write!(formatter, "**refused**: {why}."),
        }
    }
}

/// What a key does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Effect {
    /// What this says.
    Works(&'static str),
    /// The same as this other key, which counts if both are there. It stands for all keys below it.
    Alias(&'static str),
    /// Nothing but a warning, with what happens instead. It stands for all keys below it.
    Ignored(&'static str),
    /// It stops the start, because running without it would not be what was meant.
    Refused(&'static str),
}

/// A value that holds.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Setting {
    /// As in `http.listeners[0].addr`.
    pub key: String,
    /// The value as YAML, or `[hidden]`.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
}

/// What a reading found.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) keys: Vec<Key>,
    pub(super) settings: Vec<Setting>,
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<Problem>,
    unknown: Vec<Unknown>,
    /// Whether this reading is for the keys alone, so that empty lists are read as if they had an item.
    describes: bool,
}

#[derive(Debug)]
struct Unknown {
    section: String,
    name: String,
    siblings: Vec<&'static str>,
    origin: Origin,
}

impl Findings {
    /// Begins a reading of nothing that lists all keys.
    pub(super) fn of_all_keys() -> Self {
        Self { describes: true, ..Self::default() }
    }

    /// Reads the whole document, and then says which of its keys nobody asked for.
    pub(super) fn read<'n, T>(&mut self, root: &'n Node, read: impl FnOnce(&mut Section<'n, '_>) -> T) -> T {
        let value = self.section(String::new(), Some(root), read);
        for unknown in std::mem::take(&mut self.unknown) {
            let what = format!("there is no such key; {}", self.suggestion(&unknown));
            let problem =
                Problem { key: join(&unknown.section, &unknown.name), what, origin: unknown.origin };
            match &problem.origin {
                // Kubernetes sets REGISTRY_PORT and the like for a service that is called "registry".
                Origin::Environment(_) => self.warnings.push(problem),
                Origin::File { .. } | Origin::Default => self.problems.push(problem),
            }
        }
        value
    }

    fn section<'n, T>(
        &mut self,
        path: String,
        node: Option<&'n Node>,
        read: impl FnOnce(&mut Section<'n, '_>) -> T,
    ) -> T {
        let entries = match node.map(|node| &node.content) {
            Some(Content::Map(entries)) => entries.as_slice(),
            None | Some(Content::Nothing) => &[],
            Some(content @ (Content::Text(_) | Content::List(_))) => {
                let what = format!("{} stands where keys are expected", kind(content));
                let origin = node.map_or(Origin::Default, |node| node.origin.clone());
                self.problems.push(Problem { origin, key: path.clone(), what });
                &[]
            }
        };
        let origin = node.map_or(Origin::Default, |node| node.origin.clone());
        let entries = entries.iter().collect();
        let mut section =
            Section { path, origin, entries, stand_ins: Vec::new(), names: Vec::new(), findings: self };
        let value = read(&mut section);
        section.finish();
        value
    }

    /// Says what was probably meant: a sibling with nearly that name, that name in another section, or any sibling.
    fn suggestion(&self, unknown: &Unknown) -> String {
        let distance = |name: &str| strsim::damerau_levenshtein(name, &unknown.name.to_lowercase());
        let near = unknown.siblings.iter().min_by_key(|name| distance(name));
        if let Some(name) = near.filter(|name| distance(name) <= name.len().max(3) / 3) {
            return format!("did you mean \"{}\"?", join(&unknown.section, name));
        }
        let elsewhere = self.keys.iter().find(|key| key.path.ends_with(&format!(".{}", unknown.name)));
        if let Some(key) = elsewhere {
            return format!("did you mean \"{}\"?", key.path);
        }
        match unknown.siblings.as_slice() {
            [] => "nothing can be set here".to_owned(),
            siblings => format!("here may stand: {}", siblings.join(", ")),
        }
    }
}

/// A section while it is read.
pub(super) struct Section<'n, 'f> {
    path: String,
    origin: Origin,
    entries: Vec<&'n (String, Node)>,
    stand_ins: Vec<(&'static str, &'n Node)>,
    names: Vec<&'static str>,
    findings: &'f mut Findings,
}

impl<'n> Section<'n, '_> {
    /// Reads the section below a key.
    pub(super) fn section<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&mut Section<'n, '_>) -> T,
    ) -> T {
        let node = self.find(name);
        self.findings.section(join(&self.path, name), node, read)
    }

    /// Reads a list of sections.
    pub(super) fn sections<T>(
        &mut self,
        name: &'static str,
        mut read: impl FnMut(&mut Section<'n, '_>) -> T,
    ) -> Vec<T> {
        let items = self.items(name);
        let path = join(&self.path, name);
        if self.findings.describes {
            self.findings.section(format!("{path}[]"), None, &mut read);
        }
        let item = |(index, node)| self.findings.section(format!("{path}[{index}]"), Some(node), &mut read);
        items.into_iter().enumerate().map(item).collect()
    }

    /// Reads a value.
    pub(super) fn get<T: Value>(&mut self, name: &'static str, default: T, about: &'static str) -> T {
        let shown = quoted(&default.show());
        match self.read(name, Some(shown.clone()), about) {
            Some(value) => value,
            None => {
                self.hold(name, shown, Origin::Default);
                default
            }
        }
    }

    /// Reads a value that need not be there.
    pub(super) fn optional<T: Value>(&mut self, name: &'static str, about: &'static str) -> Option<T> {
        self.read(name, None, about)
    }

    fn read<T: Value>(
        &mut self,
        name: &'static str,
        default: Option<String>,
        about: &'static str,
    ) -> Option<T> {
        self.describe(name, T::noun(), default, Effect::Works(about));
        let node = self.find(name).filter(|node| !matches!(node.content, Content::Nothing))?;
        let value: T = self.parse(&join(&self.path, name), node)?;
        self.hold(name, quoted(&value.show()), node.origin.clone());
        Some(value)
    }

    /// Reads a list of values; a single one counts as a list of it.
    pub(super) fn list<T: Value>(&mut self, name: &'static str, about: &'static str) -> Vec<T> {
        let noun = T::noun();
        let noun = noun.strip_prefix("a ").unwrap_or(&noun);
        self.describe(name, format!("a list: {noun}"), Some("[]".to_owned()), Effect::Works(about));
        let path = join(&self.path, name);
        let items = self.items(name);
        let parse = |(index, node)| self.parse(&format!("{path}[{index}]"), node);
        let values: Vec<T> = items.iter().copied().enumerate().filter_map(parse).collect();
        let origin = items.first().map_or(Origin::Default, |node| node.origin.clone());
        self.hold(name, value::list(values.iter().map(|value| quoted(&value.show()))), origin);
        values
    }

    /// Reads a map whose keys are the operator's own: each with a value or a list of them.
    pub(super) fn table<N: Value, T: Value>(
        &mut self,
        name: &'static str,
        about: &'static str,
    ) -> Vec<(N, Vec<T>)> {
        self.describe(name, format!("a map: {}", N::noun()), Some("{}".to_owned()), Effect::Works(about));
        let Some(node) = self.find(name) else { return Vec::new() };
        let Content::Map(entries) = &node.content else {
            if !matches!(node.content, Content::Nothing) {
                let what = format!("{} stands where names with values are expected", kind(&node.content));
                self.problem_at(node.origin.clone(), name, what);
            }
            return Vec::new();
        };
        let mut table = Vec::new();
        for (entry, node) in entries {
            let path = format!("{}.{entry}", join(&self.path, name));
            let Some(key) = N::parse(entry) else {
                let what = format!("\"{}\" is not {}; {}", shortened(entry), N::noun(), N::remedy(entry));
                self.problem_at(node.origin.clone(), name, what);
                continue;
            };
            let items: Vec<&Node> = match &node.content {
                Content::List(items) => items.iter().collect(),
                Content::Nothing | Content::Text(_) | Content::Map(_) => vec![node],
            };
            let values: Vec<T> = items.into_iter().filter_map(|item| self.parse(&path, item)).collect();
            let shown = value::list(values.iter().map(|value| quoted(&value.show())));
            self.findings.settings.push(Setting { key: path, value: shown, origin: node.origin.clone() });
            table.push((key, values));
        }
        table
    }

    /// Reads a secret, or the file whose name the key with `file` at its end gives.
    pub(super) fn secret(
        &mut self,
        name: &'static str,
        file: &'static str,
        about: &'static str,
    ) -> Option<Secret> {
        self.describe(name, String::noun(), None, Effect::Works(about));
        let written = self.find(name).filter(|node| !matches!(node.content, Content::Nothing));
        let written = written.and_then(|node| {
            let secret: String = self.parse(&join(&self.path, name), node)?;
            self.hold(name, "[hidden]".to_owned(), node.origin.clone());
            Some(Secret::new(secret))
        });
        let kept: Option<PathBuf> = self.optional(
            file,
            "The file that holds it, instead of writing it here. It is read when the server starts.",
        );
        match kept {
            None => written,
            Some(_) if written.is_some() => {
                self.problem(file, format!("the secret is given by \"{name}\" too; remove one of them"));
                None
            }
            Some(path) => match read_secret(&path) {
                Ok(secret) => Some(secret),
                Err(error) => {
                    self.problem(file, format!("\"{}\" cannot be read: {error}", path.display()));
                    None
                }
            },
        }
    }

    /// Tells whether a section stands here that need not hold anything, such as `inmemory`.
    pub(super) fn mark(&mut self, name: &'static str, about: &'static str) -> bool {
        self.describe(name, "nothing".to_owned(), None, Effect::Works(about));
        let node = self.find(name);
        if let Some(node) = node {
            self.hold(name, "{}".to_owned(), node.origin.clone());
        }
        node.is_some()
    }

    /// Leaves out of what holds all that is below a key, because something else takes its place.
    pub(super) fn forget(&mut self, name: &str) {
        let below = format!("{}.", join(&self.path, name));
        self.findings.settings.retain(|setting| !setting.key.starts_with(&below));
    }

    /// Tells whether a key stands here, without reading it.
    pub(super) fn has(&self, name: &str) -> bool {
        self.entries.iter().any(|(entry, _)| entry == name)
    }

    /// Takes what stands under another name for the same thing; [`Self::stand_in`] puts it where it belongs.
    pub(super) fn alias(&mut self, name: &'static str, of: &'static str) -> Option<&'n Node> {
        self.describe(name, "anything".to_owned(), None, Effect::Alias(of));
        self.find(name)
    }

    /// Lets what was found under another name count where nothing stands under this one.
    pub(super) fn stand_in(&mut self, name: &'static str, node: Option<&'n Node>) {
        self.stand_ins.extend(node.map(|node| (name, node)));
    }

    /// Leaves the keys that `theirs` picks to another section, which is read from the same lines.
    pub(super) fn leave(&mut self, theirs: impl Fn(&str) -> bool) {
        self.entries.retain(|(name, _)| !theirs(name));
    }

    /// Warns if a key stands here that Wharf has no use for, whatever is below it.
    pub(super) fn ignored(&mut self, name: &'static str, instead: &'static str) {
        self.describe(name, "anything".to_owned(), None, Effect::Ignored(instead));
        if self.find(name).is_some() {
            self.warn(name, instead);
        }
    }

    /// Refuses a key without which the server would not be what was meant, and tells whether it stands here.
    pub(super) fn refused(&mut self, name: &'static str, why: &'static str) -> bool {
        self.describe(name, "anything".to_owned(), None, Effect::Refused(why));
        let stands = self.find(name).is_some();
        if stands {
            self.problem(name, why.to_owned());
        }
        stands
    }

    /// Says that the value of a key is wrong.
    pub(super) fn problem(&mut self, name: &str, what: String) {
        let origin = self.node(name).map_or_else(|| self.origin.clone(), |node| node.origin.clone());
        self.problem_at(origin, name, what);
    }

    /// Warns of the value of a key.
    pub(super) fn warn(&mut self, name: &str, what: &str) {
        let origin = self.node(name).map_or_else(|| self.origin.clone(), |node| node.origin.clone());
        self.findings.warnings.push(Problem { origin, key: join(&self.path, name), what: what.to_owned() });
    }

    fn problem_at(&mut self, origin: Origin, name: &str, what: String) {
        self.findings.problems.push(Problem { origin, key: join(&self.path, name), what });
    }

    /// Finds what stands under a key, which by that is known.
    fn find(&mut self, name: &'static str) -> Option<&'n Node> {
        if !self.names.contains(&name) {
            self.names.push(name);
        }
        self.node(name)
    }

    fn node(&self, name: &str) -> Option<&'n Node> {
        let entry = self.entries.iter().copied().rev().find(|(entry, _)| entry == name).map(|(_, node)| node);
        entry.or_else(|| {
            self.stand_ins.iter().find(|(stands_for, _)| *stands_for == name).map(|(_, node)| *node)
        })
    }

    /// Finds the items of a list. Variables make a map of indexes where the file has no list.
    fn items(&mut self, name: &'static str) -> Vec<&'n Node> {
        let Some(node) = self.find(name) else { return Vec::new() };
        match &node.content {
            Content::Nothing => Vec::new(),
            Content::Text(_) => vec![node],
            Content::List(items) => items.iter().collect(),
            Content::Map(entries) => {
                let mut items = Vec::new();
                while let Some((_, item)) = entries.iter().find(|(key, _)| *key == items.len().to_string()) {
                    items.push(item);
                }
                if items.len() < entries.len() {
                    let what = "keys stand where a list is expected; begin each item with \"- \"";
                    self.problem_at(node.origin.clone(), name, what.to_owned());
                }
                items
            }
        }
    }

    fn parse<T: Value>(&mut self, path: &str, node: &Node) -> Option<T> {
        let what = match &node.content {
            Content::Text(text) => match T::parse(text) {
                Some(value) => return Some(value),
                None => format!("\"{}\" is not {}; {}", shortened(text), T::noun(), T::remedy(text)),
            },
            content @ (Content::Nothing | Content::List(_) | Content::Map(_)) => {
                format!("{} stands where {} is expected", kind(content), T::noun())
            }
        };
        self.findings.problems.push(Problem { origin: node.origin.clone(), key: path.to_owned(), what });
        None
    }

    fn hold(&mut self, name: &str, value: String, origin: Origin) {
        self.findings.settings.push(Setting { key: join(&self.path, name), value, origin });
    }

    fn describe(&mut self, name: &str, value: String, default: Option<String>, effect: Effect) {
        self.findings.keys.push(Key { path: join(&self.path, name), value, default, effect });
    }

    fn finish(self) {
        for (position, (name, node)) in self.entries.iter().enumerate() {
            if !self.names.contains(&name.as_str()) {
                self.findings.unknown.push(Unknown {
                    section: self.path.clone(),
                    name: name.clone(),
                    siblings: self.names.clone(),
                    origin: node.origin.clone(),
                });
            }
            if self.entries[..position].iter().any(|(earlier, _)| earlier == name) {
                self.findings.warnings.push(Problem {
                    origin: node.origin.clone(),
                    key: join(&self.path, name),
                    what: "it is written twice, and this one counts; remove the other".to_owned(),
                });
            }
        }
    }
}

fn read_secret(path: &Path) -> std::io::Result<Secret> {
    let text = std::fs::read_to_string(path)?;
    Ok(Secret::new(text.trim_end_matches(['\r', '\n'])))
}

fn join(section: &str, name: &str) -> String {
    if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") }
}

fn kind(content: &Content) -> &'static str {
    match content {
        Content::Nothing => "nothing",
        Content::Text(_) => "a word",
        Content::List(_) => "a list",
        Content::Map(_) => "a section",
    }
}

/// Cuts a word that would fill the screen.
fn shortened(text: &str) -> String {
    const LONGEST: usize = 80;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
