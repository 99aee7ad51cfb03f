//! A configuration as it was typed: words, lists and maps, each of which knows where it came from.
//!
//! Words stay as they were written, because YAML's own idea of types loses what is needed: a password `0123` is no
//! number, and `0.1` is a version. Like the YAML reader of distribution, this one takes the last of two equal keys,
//! follows `<<` and reads the first document alone; unlike it, it bounds what a file may unfold to.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use saphyr_parser::{Event, Parser, ScalarStyle};

const MAX_FILE_BYTES: usize = 1024 * 1024;
const MAX_DEPTH: usize = 64;
/// How much memory aliases may add.
const MAX_WEIGHT: usize = 8 * 1024 * 1024;

/// Where a value came from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Origin {
    /// A line of the configuration file.
    File {
        /// The file as it was named on the command line.
        name: Arc<str>,
        /// Its line, from 1.
        line: usize,
    },
    /// An environment variable.
    Environment(Arc<str>),
    /// Nobody set it.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { name, line } => write!(formatter, "{name}:{line}"),
            Self::Environment(variable) => formatter.write_str(variable),
            Self::Default => formatter.write_str("default"),
        }
    }
}

/// A value and where it came from.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) content: Content,
    pub(super) origin: Origin,
}

#[derive(Clone, Debug)]
pub(super) enum Content {
    /// Nothing, `~` or `null`: as if the key were not there.
    Nothing,
    Text(String),
    List(Vec<Node>),
    /// In the order of the file; of equal keys the last one counts.
    Map(Vec<(String, Node)>),
}

/// Why a text is no document.
#[derive(Debug)]
pub(super) struct Malformed {
    pub(super) line: usize,
    pub(super) what: String,
}

impl Node {
    /// Reads the first YAML document of a text; `origin` tells what to remember of a line.
    pub(super) fn parse(text: &str, origin: &dyn Fn(usize) -> Origin) -> Result<Self, Malformed> {
        if text.len() > MAX_FILE_BYTES {
            return Err(Malformed { line: 1, what: format!("it is larger than {MAX_FILE_BYTES} bytes") });
        }
        let mut parser = Parser::new_from_str(text.strip_prefix('\u{feff}').unwrap_or(text));
        let mut builder =
            Builder { origin, root: None, open: Vec::new(), anchors: HashMap::new(), weight: 0 };
        while let Some(event) = parser.next_event() {
            let (event, span) = event.map_err(|error| Malformed {
                line: error.marker().line(),
                what: format!("it is not YAML: {}", error.info()),
            })?;
            let line = span.start.line();
            let ended = matches!(event, Event::DocumentEnd);
            builder.take(event, line).map_err(|what| Malformed { line, what })?;
            if ended {
                break;
            }
        }
        Ok(builder.root.unwrap_or_else(|| Self::nothing(origin(1))))
    }

    pub(super) fn nothing(origin: Origin) -> Self {
        Self { content: Content::Nothing, origin }
    }

    /// Turns a bare word into the map of that one key: `storage: inmemory` means `storage: {inmemory: }`.
    pub(super) fn spell_out(&mut self) {
        if let Content::Text(name) = &mut self.content {
            let name = std::mem::take(name);
            self.content = Content::Map(vec![(name, Self::nothing(self.origin.clone()))]);
        }
    }

    pub(super) fn get_mut(&mut self, key: &str) -> Option<&mut Self> {
        match &mut self.content {
            Content::Map(entries) => {
                entries.iter_mut().rev().find(|(name, _)| name == key).map(|(_, node)| node)
            }
            Content::Nothing | Content::Text(_) | Content::List(_) => None,
        }
    }

    /// Tells roughly how much memory the value takes.
    fn weight(&self) -> usize {
        size_of::<Self>()
            + match &self.content {
                Content::Nothing => 0,
                Content::Text(text) => text.len(),
                Content::List(items) => items.iter().map(Self::weight).sum(),
                Content::Map(entries) => entries.iter().map(|(name, node)| name.len() + node.weight()).sum(),
            }
    }
}

/// Builds a [`Node`] from the parser's events, without recursion.
struct Builder<'a> {
    origin: &'a dyn Fn(usize) -> Origin,
    root: Option<Node>,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    weight: usize,
}

/// A list or a map whose end is still to come.
struct Open {
    anchor: usize,
    line: usize,
    inside: Inside,
}

enum Inside {
    List(Vec<Node>),
    Map { entries: Vec<(String, Node)>, key: Option<(String, usize)> },
}

impl Builder<'_> {
    fn take(&mut self, event: Event<'_>, line: usize) -> Result<(), String> {
        match event {
            Event::SequenceStart(anchor, _) => self.open(anchor, line, Inside::List(Vec::new())),
            Event::MappingStart(anchor, _) => {
                self.open(anchor, line, Inside::Map { entries: Vec::new(), key: None })
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open { anchor, line, inside: Inside::List(items) }) => {
                    self.close(Content::List(items), anchor, line)
                }
                Some(Open { anchor, line, inside: Inside::Map { entries, .. } }) => {
                    self.close(Content::Map(merged(entries)), anchor, line)
                }
                None => Ok(()),
            },
            Event::Scalar(text, style, anchor, _) => {
                let nothing = style == ScalarStyle::Plain
                    && matches!(&*text, "" | "~" | "null" | "Null" | "NULL")
                    && !self.awaits_a_key();
                let content = if nothing { Content::Nothing } else { Content::Text(text.into_owned()) };
                self.close(content, anchor, line)
            }
            Event::Alias(id) => {
                let node = self.anchors.get(&id).ok_or("an alias names what has not ended yet")?;
                let (content, weight) = (node.content.clone(), node.weight());
                self.weigh(weight)?;
                self.close(content, 0, line)
            }
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => Ok(()),
        }
    }

    fn open(&mut self, anchor: usize, line: usize, inside: Inside) -> Result<(), String> {
        if self.open.len() >= MAX_DEPTH {
            return Err(format!("it is nested deeper than {MAX_DEPTH} levels"));
        }
        self.open.push(Open { anchor, line, inside });
        Ok(())
    }

    /// Puts a finished value where it belongs.
    fn close(&mut self, content: Content, anchor: usize, line: usize) -> Result<(), String> {
        let mut node = Node { content, origin: (self.origin)(line) };
        if anchor != 0 {
            self.weigh(node.weight())?;
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut().map(|open| &mut open.inside) {
            None => self.root = Some(node),
            Some(Inside::List(items)) => items.push(node),
            Some(Inside::Map { entries, key }) => match key.take() {
                Some((name, line)) => {
                    node.origin = (self.origin)(line);
                    entries.push((name, node));
                }
                None => match node.content {
                    Content::Text(name) => *key = Some((name, line)),
                    Content::Nothing | Content::List(_) | Content::Map(_) => {
                        return Err("a key must be a word".to_owned());
                    }
                },
            },
        }
        Ok(())
    }

    /// Counts what aliases add: without them a document is no larger than its text.
    fn weigh(&mut self, weight: usize) -> Result<(), String> {
        self.weight += weight;
        if self.weight > MAX_WEIGHT { Err("its aliases unfold to too much".to_owned()) } else { Ok(()) }
    }

    fn awaits_a_key(&self) -> bool {
        matches!(self.open.last(), Some(Open { inside: Inside::Map { key: None, .. }, .. }))
    }
}

/// Carries out `<<`: the entries of the maps it names come first, so that a map's own win.
fn merged(entries: Vec<(String, Node)>) -> Vec<(String, Node)> {
    let (merges, own): (Vec<_>, Vec<_>) = entries.into_iter().partition(|(name, _)| name == "<<");
    let mut all = Vec::new();
    for (_, node) in merges {
        let maps = match node.content {
            Content::List(items) => items,
            Content::Nothing | Content::Text(_) | Content::Map(_) => vec![node],
        };
        // Of several maps the first one wins.
        for map in maps.into_iter().rev() {
            if let Content::Map(entries) = map.content {
                all.extend(entries);
            }
        }
    }
    let names: HashSet<&String> = own.iter().map(|(name, _)| name).collect();
    all.retain(|(name, _)| !names.contains(name));
    all.extend(own);
    all
}
