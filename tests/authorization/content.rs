//! What the repositories of the table hold.

use std::collections::HashMap;

use futures_util::future::join_all;
use storage::{Algorithm, Digest};

use crate::harness::{Image, Layer, TestRegistry, User};

/// What is sent as a blob.
pub(super) const HELLO: &[u8] = b"hello";

/// The repositories that there are. Each holds an image of its own under the tag `v1`.
const REPOSITORIES: [&str; 29] = [
    "alone",
    "by-account-as-user/app",
    "by-account/app",
    "by-group/app",
    "by-nothing/app",
    "by-own-account/app",
    "by-password/app",
    "by-several/app",
    "by-star/app",
    "by-user/app",
    "by-wrong-kind/app",
    "other/app",
    "rules/app",
    "rules/app/deep",
    "rules/base",
    "secret/app",
    "secret/mounts",
    "team-b/app",
    "team/app",
    "team/app/deep",
    "team/base",
    "team/mounts",
    "to-accounts/app",
    "to-all/app",
    "to-anonymous/app",
    "to-known/app",
    "to-masters/app",
    "to-team/app",
    "to-unknown/app",
];

/// The content, and a registry that lets everybody do everything with it.
pub(super) struct Content {
    pub(super) registry: TestRegistry,
    owner: User,
    images: HashMap<&'static str, Image>,
}

impl Content {
    pub(super) async fn push() -> Self {
        let registry = TestRegistry::start().await;
        let owner = registry.user("owner");
        let images: HashMap<_, _> = REPOSITORIES.map(|repository| (repository, an_image())).into();
        join_all(images.iter().map(|(repository, image)| owner.push(repository, "v1", image))).await;
        Self { registry, owner, images }
    }

    /// The image of a repository, or one that is nowhere.
    pub(super) fn image(&self, repository: &str) -> Image {
        self.images.get(repository).cloned().unwrap_or_else(an_image)
    }

    /// Pushes another image to a repository, if there is one of that name.
    pub(super) async fn push_another(&self, repository: &str, tag: &str) -> Image {
        let image = an_image();
        if self.images.contains_key(repository) {
            self.owner.push(repository, tag, &image).await;
        }
        image
    }

    /// What a word of the table means in a request about `repository` and `image`, if it is about content.
    pub(super) async fn word(&self, word: &str, repository: &str, image: &Image) -> Option<String> {
        let (word, repository, image) = match word.split_once(" of ") {
            Some((word, repository)) => (word, repository, &self.image(repository)),
            None => (word, repository, image),
        };
        Some(match word {
            "hello" => Digest::of(Algorithm::Sha256, HELLO).to_string(),
            "blob" => image.layers[0].digest().to_string(),
            "manifest" => image.digest().to_string(),
            "upload" => {
                let location = self.owner.begin_upload(repository).await.location();
                location.rsplit('/').next().expect("a location is a path").to_owned()
            }
            _ => return None,
        })
    }
}

fn an_image() -> Image {
    Image::of(vec![Layer::random(100)])
}
