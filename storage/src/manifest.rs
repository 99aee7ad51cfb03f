//! Manifests and indexes: what they are, what they refer to, and which are refused.
//!
//! A manifest's media type is stored nowhere but in the manifest, as in CNCF distribution, so it must follow from the
//! bytes alone. A push whose `Content-Type` says anything else is refused, whatever else is right about it: it could
//! not be served again as what it was pushed as.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::de::{self, IgnoredAny};
use serde::{Deserialize, Deserializer, Serialize};

use crate::{Digest, DigestError};

mod json;

use json::{Object, Path, Value};

/// The types of manifest that are served.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum MediaType {
    /// An OCI image manifest: a config and layers, of an image or of any other artifact.
    OciManifest,
    /// An OCI image index: a list of manifests.
    OciIndex,
    /// Docker's image manifest, version 2, schema 2.
    DockerManifest,
    /// Docker's manifest list.
    DockerManifestList,
}

impl MediaType {
    /// Every type.
    pub const ALL: [Self; 4] =
        [Self::OciManifest, Self::OciIndex, Self::DockerManifest, Self::DockerManifestList];

    /// Returns the type as `Content-Type` has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OciManifest => "application/vnd.oci.image.manifest.v1+json",
            Self::OciIndex => "application/vnd.oci.image.index.v1+json",
            Self::DockerManifest => "application/vnd.docker.distribution.manifest.v2+json",
            Self::DockerManifestList => "application/vnd.docker.distribution.manifest.list.v2+json",
        }
    }

    /// Returns whether it lists manifests, rather than a config and layers.
    pub const fn is_index(self) -> bool {
        match self {
            Self::OciIndex | Self::DockerManifestList => true,
            Self::OciManifest | Self::DockerManifest => false,
        }
    }

    /// Finds the type of a manifest in its members, by the rule that distribution reads its store with.
    fn of_content(media_type: Option<&str>, has_manifests: bool) -> Result<Self, ManifestError> {
        match media_type {
            Some(text) if !text.is_empty() => Self::ALL
                .into_iter()
                .find(|known| known.as_str() == text)
                .ok_or_else(|| ManifestError::of_unsupported(text)),
            _ if has_manifests => Ok(Self::OciIndex),
            _ => Ok(Self::OciManifest),
        }
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for MediaType {
    type Err = ManifestError;

    /// Reads the value of a `Content-Type` header. Parameters do not matter, and neither does case.
    fn from_str(text: &str) -> Result<Self, ManifestError> {
        let essence = text.split_once(';').map_or(text, |(essence, _)| essence).trim();
        Self::ALL
            .into_iter()
            .find(|known| known.as_str().eq_ignore_ascii_case(essence))
            .ok_or_else(|| ManifestError::of_unsupported(essence))
    }
}

/// Why bytes are refused as a manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The bytes are not JSON, or not JSON that everybody reads alike.
    #[error("the manifest is not valid JSON: {0}")]
    Json(serde_json::Error),
    /// The bytes are not UTF-8.
    #[error("the manifest is not UTF-8 at byte {at}")]
    Utf8 {
        /// The first byte that is wrong.
        at: usize,
    },
    /// The bytes begin with a byte order mark, which is not JSON.
    #[error("the manifest begins with a byte order mark: remove it")]
    ByteOrderMark,
    /// It is of Docker's schema 1, which nothing reads any more.
    #[error("manifests of schema 1 are not supported: push the image again with a current client")]
    SchemaOne,
    /// `schemaVersion` is not the number 2.
    #[error("schemaVersion must be the number 2")]
    SchemaVersion,
    /// It is of a type that is not served.
    #[error("{0:?} is not a supported type of manifest")]
    UnsupportedMediaType(String),
    /// `Content-Type` says one thing, the content another.
    #[error("Content-Type is {header}, but the content is a {content}")]
    MediaTypeConflict {
        /// What the header says.
        header: MediaType,
        /// What the manifest is.
        content: MediaType,
    },
    /// It has the members of both a manifest and an index, and so could be taken for either (CVE-2021-41190).
    #[error("a {media_type} cannot have {member}")]
    Ambiguous {
        /// What the manifest is.
        media_type: MediaType,
        /// What it cannot have.
        member: &'static str,
    },
    /// A member is missing or wrong.
    #[error("{member} {problem}")]
    Member {
        /// Where it stands, such as `layers[3].size`.
        member: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A digest is malformed, or of an algorithm that is not served.
    #[error("{member} is not a usable digest")]
    Digest {
        /// Where it stands, such as `layers[3].digest`.
        member: String,
        /// What is wrong with it.
        source: DigestError,
    },
}

impl ManifestError {
    fn of_unsupported(media_type: &str) -> Self {
        let is_schema_one = [
            "application/vnd.docker.distribution.manifest.v1+json",
            "application/vnd.docker.distribution.manifest.v1+prettyjws",
        ]
        .into_iter()
        .any(|schema_one| schema_one.eq_ignore_ascii_case(media_type));
        if is_schema_one { Self::SchemaOne } else { Self::UnsupportedMediaType(json::abridged(media_type)) }
    }
}

/// How a manifest names other content.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Descriptor {
    /// The type that whoever made the manifest gave the content; any text.
    pub media_type: String,
    /// The content's address.
    pub digest: Digest,
    /// The content's size in bytes.
    pub size: u64,
    /// Where else the content may be fetched; mostly nowhere.
    pub urls: Vec<String>,
    /// What the content runs on, if an index says so.
    pub platform: Option<Platform>,
}

/// What an image runs on, in the words of Go: `linux` and `amd64`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Platform {
    /// The operating system.
    pub os: String,
    /// The kind of processor.
    pub architecture: String,
}

impl Descriptor {
    /// Returns whether a registry can be expected to hold the content, if it is a layer: those that may not be
    /// distributed, and those that are fetched from elsewhere, are never pushed.
    fn is_pushed(&self) -> bool {
        const ELSEWHERE: [&str; 4] = [
            "application/vnd.oci.image.layer.nondistributable.v1.tar",
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        ];
        self.urls.is_empty() && !ELSEWHERE.contains(&self.media_type.as_str())
    }

    fn of(value: &Value<'_>, path: Path) -> Result<Self, ManifestError> {
        let object = Object::of(value, path)?;
        let media_type = object.required("mediaType", object.string("mediaType")?)?;
        let digest = object.required("digest", object.string("digest")?)?;
        let size = match object.required("size", object.get("size"))? {
            Value::Unsigned(size) if i64::try_from(*size).is_ok() => *size,
            _ => return Err(object.error("size", "must be a whole number of bytes, not negative")),
        };
        let mut urls = Vec::new();
        for url in object.array("urls")?.unwrap_or_default() {
            let Value::String(url) = url else { return Err(object.error("urls", "must hold strings")) };
            urls.push(url.to_string());
        }
        let digest = digest
            .parse()
            .map_err(|source| ManifestError::Digest { member: object.member("digest"), source })?;
        Ok(Self { media_type: media_type.to_owned(), digest, size, urls, platform: Platform::of(&object) })
    }

    fn all(object: &Object<'_>, name: &'static str) -> Result<Vec<Self>, ManifestError> {
        let elements = object.required(name, object.array(name)?)?;
        elements
            .iter()
            .enumerate()
            .map(|(index, value)| Self::of(value, Path::Element(name, index)))
            .collect()
    }

    fn optional(object: &Object<'_>, name: &'static str) -> Result<Option<Self>, ManifestError> {
        object.get(name).map(|value| Self::of(value, Path::Member(name))).transpose()
    }
}

impl Platform {
    /// The platform of a descriptor. One that is not as it should be is none: it is for whoever pulls.
    fn of(descriptor: &Object<'_>) -> Option<Self> {
        let platform = Object::of(descriptor.get("platform")?, Path::Member("platform")).ok()?;
        let word = |name| platform.string(name).ok().flatten().map(str::to_owned);
        Some(Self { os: word("os")?, architecture: word("architecture")? })
    }
}

/// A manifest or an index that is well-formed. It does not promise that what it refers to exists.
#[derive(Clone, Debug)]
pub struct Manifest {
    media_type: MediaType,
    config: Option<Descriptor>,
    layers: Vec<Descriptor>,
    children: Vec<Descriptor>,
    subject: Option<Descriptor>,
    artifact_type: Option<String>,
    annotations: BTreeMap<String, String>,
}

impl Manifest {
    /// Reads a manifest that is pushed with `content_type`, or one that is stored and has none.
    ///
    /// # Errors
    /// Whatever the image specification forbids, and whatever two readers could understand differently.
    pub fn parse(content_type: Option<&str>, bytes: &[u8]) -> Result<Self, ManifestError> {
        let header = content_type.map(str::parse::<MediaType>).transpose()?;
        if bytes.starts_with(b"\xef\xbb\xbf") {
            return Err(ManifestError::ByteOrderMark);
        }
        let text = str::from_utf8(bytes).map_err(|error| ManifestError::Utf8 { at: error.valid_up_to() })?;
        let document = json::read(text).map_err(ManifestError::Json)?;
        let top = Object::of(&document, Path::Top)?;

        match top.get("schemaVersion") {
            Some(Value::Unsigned(2)) => {}
            Some(Value::Unsigned(1)) => return Err(ManifestError::SchemaOne),
            _ => return Err(ManifestError::SchemaVersion),
        }
        let media_type = MediaType::of_content(top.string("mediaType")?, top.get("manifests").is_some())?;
        if let Some(header) = header.filter(|header| *header != media_type) {
            return Err(ManifestError::MediaTypeConflict { header, content: media_type });
        }
        let foreign: &[_] = if media_type.is_index() { &["config", "layers"] } else { &["manifests"] };
        if let Some(member) = foreign.iter().find(|member| top.get(member).is_some()) {
            return Err(ManifestError::Ambiguous { media_type, member });
        }

        let (config, layers, children) = if media_type.is_index() {
            (None, Vec::new(), Descriptor::all(&top, "manifests")?)
        } else {
            let config = top.required("config", Descriptor::optional(&top, "config")?)?;
            (Some(config), Descriptor::all(&top, "layers")?, Vec::new())
        };
        Ok(Self {
            media_type,
            config,
            layers,
            children,
            subject: Descriptor::optional(&top, "subject")?,
            artifact_type: top.string("artifactType")?.map(str::to_owned),
            annotations: top.annotations()?,
        })
    }

    /// Tells the type of a manifest that is stored, from its content alone, and reads no more than that takes. What
    /// distribution let pass and [`Manifest::parse`] refuses has a type all the same.
    pub fn stored(bytes: &[u8]) -> Result<MediaType, ManifestError> {
        let shape: Shape = serde_json::from_slice(bytes).map_err(ManifestError::Json)?;
        match shape.schema_version {
            Some(2) => MediaType::of_content(shape.media_type.as_deref(), shape.has_manifests),
            Some(1) => Err(ManifestError::SchemaOne),
            _ => Err(ManifestError::SchemaVersion),
        }
    }

    /// Returns the type to serve the manifest with.
    pub const fn media_type(&self) -> MediaType {
        self.media_type
    }

    /// Returns the config, which every image manifest has and no index.
    pub const fn config(&self) -> Option<&Descriptor> {
        self.config.as_ref()
    }

    /// Returns the layers of an image manifest.
    pub fn layers(&self) -> &[Descriptor] {
        &self.layers
    }

    /// Returns the entries of an index: manifests, or (from buildkit's caches) blobs.
    pub fn children(&self) -> &[Descriptor] {
        &self.children
    }

    /// Returns what the manifest is about, which need not exist.
    pub const fn subject(&self) -> Option<&Descriptor> {
        self.subject.as_ref()
    }

    /// Returns the type of artifact that a list of referrers shows: `artifactType`, or else the type of the config.
    pub fn artifact_type(&self) -> Option<&str> {
        let of_config = self.config.as_ref().map(|config| config.media_type.as_str());
        self.artifact_type.as_deref().filter(|own| !own.is_empty()).or(of_config).filter(|it| !it.is_empty())
    }

    /// Returns the manifest's own annotations.
    pub const fn annotations(&self) -> &BTreeMap<String, String> {
        &self.annotations
    }

    /// Returns the blobs that must exist before the manifest may be stored: its config, and the layers that are pushed
    /// to a registry at all.
    pub fn required_blobs(&self) -> impl Iterator<Item = &Descriptor> {
        self.config.iter().chain(self.layers.iter().filter(|layer| layer.is_pushed()))
    }

    /// Returns how a list of referrers shows this manifest, whose content has `digest` and `size`.
    pub fn as_referrer(&self, digest: Digest, size: u64) -> ReferrerDescriptor {
        ReferrerDescriptor {
            media_type: self.media_type.as_str().to_owned(),
            digest,
            size,
            artifact_type: self.artifact_type().map(str::to_owned),
            annotations: self.annotations.clone(),
        }
    }
}

/// An entry in a list of referrers, which is an OCI index.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReferrerDescriptor {
    /// The type of the manifest that refers to the subject.
    pub media_type: String,
    /// Its address.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// What kind of artifact it is, if it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Its annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// The members that tell a stored manifest's type. If one stands twice the last counts, as it does for Go.
#[derive(Default)]
struct Shape {
    schema_version: Option<i64>,
    media_type: Option<String>,
    has_manifests: bool,
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(field_identifier, rename_all = "camelCase")]
        enum Name {
            SchemaVersion,
            MediaType,
            Manifests,
            #[serde(other)]
            Other,
        }

        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Shape;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut object: A) -> Result<Shape, A::Error> {
                let mut shape = Shape::default();
                while let Some(name) = object.next_key()? {
                    match name {
                        Name::SchemaVersion => shape.schema_version = object.next_value()?,
                        Name::MediaType => shape.media_type = object.next_value()?,
                        Name::Manifests => {
                            shape.has_manifests = object.next_value::<Option<IgnoredAny>>()?.is_some();
                        }
                        Name::Other => drop(object.next_value::<IgnoredAny>()?),
                    }
                }
                Ok(shape)
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

#[cfg(test)]
mod tests;
