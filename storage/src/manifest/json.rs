//! JSON as a manifest may have it: I-JSON (unique names, UTF-8), of bounded depth and size, read in one pass.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::ManifestError;

/// How deep arrays and objects may nest. Manifests need four levels.
const MAX_DEPTH: usize = 64;

/// How many names and values a document may have. It bounds the memory that 4 MiB of JSON can turn into; an index of
/// ten thousand annotated manifests needs half of it.
const MAX_VALUES: usize = 1 << 18;

/// Names that mean something in a manifest or a descriptor.
const NAMES: [&str; 11] = [
    "annotations",
    "artifactType",
    "config",
    "digest",
    "layers",
    "manifests",
    "mediaType",
    "schemaVersion",
    "size",
    "subject",
    "urls",
];

/// A value, as far as manifests need to tell values apart.
pub(super) enum Value<'a> {
    Null,
    Boolean,
    /// A whole number that is not negative.
    Unsigned(u64),
    /// Any other number.
    Number,
    String(Cow<'a, str>),
    Array(Vec<Value<'a>>),
    /// The members in the order of their names, which are unique.
    Object(Vec<(Cow<'a, str>, Value<'a>)>),
}

/// Reads a whole document.
pub(super) fn read(text: &str) -> Result<Value<'_>, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let budget = Cell::new(MAX_VALUES);
    let value = Reader { depth: 0, budget: &budget }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

#[derive(Clone, Copy)]
struct Reader<'b> {
    depth: usize,
    /// How many more values the document may have.
    budget: &'b Cell<usize>,
}

impl Reader<'_> {
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth == MAX_DEPTH {
            return Err(E::custom(format_args!("nested more than {MAX_DEPTH} levels deep")));
        }
        Ok(Self { depth: self.depth + 1, ..self })
    }
}

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Value<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value<'de>, D::Error> {
        let left = self.budget.get().checked_sub(1);
        let left = left.ok_or_else(|| D::Error::custom(format_args!("more than {MAX_VALUES} values")))?;
        self.budget.set(left);
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Value<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value<'de>, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Value<'de>, E> {
        Ok(Value::Boolean)
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value<'de>, E> {
        Ok(Value::Unsigned(number))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Value<'de>, E> {
        Ok(Value::Number)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Value<'de>, E> {
        Ok(Value::Number)
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Value<'de>, E> {
        Ok(Value::String(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value<'de>, E> {
        Ok(Value::String(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Value<'de>, A::Error> {
        let reader = self.deeper()?;
        let mut values = Vec::new();
        while let Some(value) = array.next_element_seed(reader)? {
            values.push(value);
        }
        values.shrink_to_fit();
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Value<'de>, A::Error> {
        let reader = self.deeper()?;
        let mut members = Vec::new();
        while let Some((name, value)) = object.next_entry_seed(reader, reader)? {
            let Value::String(name) = name else { return Err(A::Error::custom("a name is no string")) };
            members.push((name, value));
        }
        members.shrink_to_fit();
        members.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        if let Some([(name, _), _]) = members.array_windows().find(|[(a, _), (b, _)]| a == b) {
            return Err(A::Error::custom(format_args!(
                "the name {:?} stands twice in an object",
                abridged(name)
            )));
        }
        Ok(Value::Object(members))
    }
}

/// Where in a manifest a value stands, for messages.
#[derive(Clone, Copy)]
pub(super) enum Path {
    Top,
    Member(&'static str),
    Element(&'static str, usize),
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Top => f.write_str("the manifest"),
            Self::Member(name) => f.write_str(name),
            Self::Element(name, index) => write!(f, "{name}[{index}]"),
        }
    }
}

/// The manifest itself, or a descriptor in it. A member that is `null` counts as absent, as it does for Go's clients.
pub(super) struct Object<'v> {
    path: Path,
    members: &'v [(Cow<'v, str>, Value<'v>)],
}

impl<'v> Object<'v> {
    pub(super) fn of(value: &'v Value<'_>, path: Path) -> Result<Self, ManifestError> {
        let Value::Object(members) = value else {
            return Err(ManifestError::Member { member: path.to_string(), problem: "must be an object" });
        };
        let object = Self { path, members };
        for (name, _) in members {
            if !NAMES.contains(&&**name) && NAMES.iter().any(|known| go_reads_as(name, known)) {
                return Err(object.error(name, "differs only in case from a name that has a meaning"));
            }
        }
        Ok(object)
    }

    pub(super) fn get(&self, name: &str) -> Option<&'v Value<'v>> {
        self.raw(name).filter(|value| !matches!(value, Value::Null))
    }

    pub(super) fn string(&self, name: &str) -> Result<Option<&'v str>, ManifestError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.error(name, "must be a string")),
        }
    }

    pub(super) fn required<T>(&self, name: &str, value: Option<T>) -> Result<T, ManifestError> {
        value.ok_or_else(|| self.error(name, "is missing"))
    }

    /// Returns the elements of an array. One that is `null` has none: Go writes an empty list so.
    pub(super) fn array(&self, name: &str) -> Result<Option<&'v [Value<'v>]>, ManifestError> {
        match self.raw(name) {
            None => Ok(None),
            Some(Value::Null) => Ok(Some(&[])),
            Some(Value::Array(elements)) => Ok(Some(elements)),
            Some(_) => Err(self.error(name, "must be an array")),
        }
    }

    pub(super) fn annotations(&self) -> Result<BTreeMap<String, String>, ManifestError> {
        let members = match self.get("annotations") {
            None => return Ok(BTreeMap::new()),
            Some(Value::Object(members)) => members,
            Some(_) => return Err(self.error("annotations", "must be an object")),
        };
        let annotation = |(name, value): &(Cow<'_, str>, Value<'_>)| match value {
            Value::String(text) => Ok((name.to_string(), text.to_string())),
            _ => Err(self.error("annotations", "must hold strings")),
        };
        members.iter().map(annotation).collect()
    }

    pub(super) fn error(&self, name: &str, problem: &'static str) -> ManifestError {
        ManifestError::Member { member: self.member(name), problem }
    }

    /// Names a member of this object as messages do, such as `layers[3].digest`.
    pub(super) fn member(&self, name: &str) -> String {
        match self.path {
            Path::Top => abridged(name),
            Path::Member(_) | Path::Element(..) => format!("{}.{}", self.path, abridged(name)),
        }
    }

    fn raw(&self, name: &str) -> Option<&'v Value<'v>> {
        let at = self.members.binary_search_by(|(member, _)| (**member).cmp(name)).ok()?;
        Some(&self.members[at].1)
    }
}

/// Whether Go's `encoding/json` takes `name` for `known`. It ignores case, and folds two letters beyond ASCII.
/// A manifest whose `Layers` are not its `layers` would be one thing to us and another to most clients.
fn go_reads_as(name: &str, known: &str) -> bool {
    let folded = name.chars().map(|c| match c {
        'ſ' => 's',
        '\u{212a}' => 'k',
        c => c.to_ascii_lowercase(),
    });
    folded.eq(known.chars().map(|c| c.to_ascii_lowercase()))
}

/// Cuts a text that a client chose to a length that fits in a message.
pub(super) fn abridged(text: &str) -> String {
    text.chars().take(80).collect()
}
