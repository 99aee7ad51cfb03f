//! Content to push: layers of any size, and images that can be run.

use std::{
    fs,
    hash::{BuildHasher, RandomState},
    path::Path,
};

use bytes::Bytes;
use serde_json::{Value, json};
use storage::{Algorithm, Digest};

/// Some bytes that a manifest refers to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Layer(Bytes);

impl Layer {
    /// Makes a layer that nobody has pushed before.
    pub(crate) fn random(size: usize) -> Self {
        // splitmix64: quick also in a debug build, and no compressor makes it smaller.
        let mut state = RandomState::new().hash_one(0);
        let mut words = Vec::with_capacity(size + 8);
        while words.len() < size {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            words.extend_from_slice(&(mixed ^ (mixed >> 31)).to_le_bytes());
        }
        words.truncate(size);
        Self(words.into())
    }

    /// Makes a layer of a file system: paths, and what is in the files. Programs may be run.
    pub(crate) fn of_files<'a>(files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        let mut archive = tar::Builder::new(Vec::new());
        for (path, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o755);
            archive.append_data(&mut header, path, content).expect("an archive in memory takes any file");
        }
        Self(archive.into_inner().expect("an archive in memory can be finished").into())
    }

    pub(crate) fn from_bytes(bytes: Bytes) -> Self {
        Self(bytes)
    }

    pub(crate) fn bytes(&self) -> Bytes {
        self.0.clone()
    }

    pub(crate) fn digest(&self) -> Digest {
        Digest::of(Algorithm::Sha256, &self.0)
    }

    /// The first `size` bytes.
    pub(crate) fn first(&self, size: usize) -> Bytes {
        self.0.slice(..size)
    }

    /// What comes after the first `size` bytes.
    pub(crate) fn from(&self, size: usize) -> Bytes {
        self.0.slice(size..)
    }
}

/// An image of the machine that the tests run on.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(crate) manifest: Bytes,
    pub(crate) config: Bytes,
    pub(crate) layers: Vec<Layer>,
}

impl Image {
    /// Makes an image that only holds `layers`, which need not be archives.
    pub(crate) fn of(layers: Vec<Layer>) -> Self {
        Self::with_command(&[], layers)
    }

    /// Makes an image that prints `message` when it is run. `busybox` is the path of a static busybox.
    pub(crate) fn saying(message: &str, busybox: &Path) -> Self {
        Self::saying_amid(message, busybox, Vec::new())
    }

    /// Makes an image that prints `message` when it is run, and has `more` layers on top.
    pub(crate) fn saying_amid(message: &str, busybox: &Path, more: Vec<Layer>) -> Self {
        let busybox = fs::read(busybox).expect("busybox can be read");
        let mut layers = vec![
            Layer::of_files([("bin/busybox", &*busybox)]),
            Layer::of_files([("message", message.as_bytes())]),
        ];
        layers.extend(more);
        Self::with_command(&["/bin/busybox", "cat", "/message"], layers)
    }

    /// Makes an image that runs a command of `busybox`.
    pub(crate) fn running(command: &[&str], busybox: &Path) -> Self {
        let busybox = fs::read(busybox).expect("busybox can be read");
        Self::with_command(command, vec![Layer::of_files([("bin/busybox", &*busybox)])])
    }

    fn with_command(command: &[&str], layers: Vec<Layer>) -> Self {
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let diff_ids: Vec<_> = layers.iter().map(|layer| layer.digest().to_string()).collect();
        let config = to_bytes(&json!({
            "architecture": architecture,
            "os": "linux",
            "config": { "Cmd": command },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        }));
        let layer_type = "application/vnd.oci.image.layer.v1.tar";
        let described: Vec<_> = layers.iter().map(|layer| descriptor(layer_type, &layer.0)).collect();
        let manifest = to_bytes(&json!({
            "schemaVersion": 2,
            "mediaType": Self::MEDIA_TYPE,
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": described,
        }));
        Self { manifest, config, layers }
    }

    /// The same, as something that is said about `subject`.
    pub(crate) fn about(&self, subject: &Self, note: &str) -> Self {
        let mut manifest: Value = serde_json::from_slice(&self.manifest).expect("it was made here");
        manifest["subject"] = descriptor(Self::MEDIA_TYPE, &subject.manifest);
        manifest["annotations"] = json!({ "note": note });
        Self { manifest: to_bytes(&manifest), ..self.clone() }
    }

    /// What its manifest is.
    pub(crate) const MEDIA_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

    pub(crate) fn digest(&self) -> Digest {
        Digest::of(Algorithm::Sha256, &self.manifest)
    }

    /// Writes the image as an OCI image layout, which most clients read as `oci:FOLDER:TAG`.
    pub(crate) fn write_layout(&self, folder: &Path, tag: &str) {
        let blobs = folder.join("blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        let layers = self.layers.iter().map(|layer| &layer.0);
        for content in layers.chain([&self.config, &self.manifest]) {
            fs::write(blobs.join(Digest::of(Algorithm::Sha256, content).hex().to_string()), content).unwrap();
        }
        let mut entry = descriptor(Self::MEDIA_TYPE, &self.manifest);
        entry["annotations"] = json!({ "org.opencontainers.image.ref.name": tag });
        let index = json!({ "schemaVersion": 2, "manifests": [entry] });
        fs::write(folder.join("index.json"), to_bytes(&index)).unwrap();
        fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    }
}

/// What a manifest says of `content`.
pub(crate) fn descriptor(media_type: &str, content: &[u8]) -> Value {
    let digest = Digest::of(Algorithm::Sha256, content).to_string();
    json!({ "mediaType": media_type, "digest": digest, "size": content.len() })
}

fn to_bytes(value: &Value) -> Bytes {
    serde_json::to_vec(value).expect("JSON values can be written").into()
}
