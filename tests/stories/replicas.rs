//! Two servers on one folder, and people at both of them at once.

use hyper::{Method, StatusCode};

use crate::harness::{Image, Layer, TestRegistry, User, until};

const REPOSITORY: &str = "team/app";

/// Somebody at one of the servers, and what was acknowledged to them.
struct Person {
    name: String,
    /// At their server, and at the other one.
    here: User,
    there: User,
    kept: Vec<(String, Image)>,
    deleted: Vec<(String, Image)>,
    /// Where they moved the tag that all of them move.
    moved: Option<Image>,
}

impl Person {
    fn new(number: usize, servers: [&TestRegistry; 2]) -> Self {
        let name = format!("person-{number}");
        let [here, there] = [servers[number % 2], servers[(number + 1) % 2]].map(|server| server.user(&name));
        Self { name, here, there, kept: Vec::new(), deleted: Vec::new(), moved: None }
    }

    /// Pushes what everybody pushes and what nobody else does, moves a tag that all of them move, and deletes.
    async fn work(&mut self, common: &[Image], contested: &Image, round: usize) {
        let all = &common[round % common.len()];
        self.here.push(REPOSITORY, "common", all).await;
        let path = format!("/v2/{REPOSITORY}/manifests/{}", contested.digest());
        if round.is_multiple_of(2) {
            self.here.push(REPOSITORY, "contested", contested).await;
        } else {
            let deleted = self.here.delete(&path).await.status;
            assert!(matches!(deleted, StatusCode::ACCEPTED | StatusCode::NOT_FOUND), "{deleted}");
        }

        let tag = format!("{}-{round}", self.name);
        let image = some_image(&common[0].layers[0]);
        self.here.push(REPOSITORY, &tag, &image).await;
        let by_digest = format!("/v2/{REPOSITORY}/manifests/{}", image.digest());
        self.there.head(&by_digest).await.expect(StatusCode::OK);
        if round.is_multiple_of(3) {
            let kind = [("content-type", Image::MEDIA_TYPE)];
            let path = format!("/v2/{REPOSITORY}/manifests/latest");
            self.here
                .ask(Method::PUT, &path, &kind, image.manifest.clone())
                .await
                .expect(StatusCode::CREATED);
            self.moved = Some(image.clone());
            self.kept.push((tag, image));
        } else if round % 3 == 1 {
            self.here.delete(&by_digest).await.expect(StatusCode::ACCEPTED);
            self.there.head(&by_digest).await.expect(StatusCode::NOT_FOUND);
            self.deleted.push((tag, image));
        } else {
            self.kept.push((tag, image));
        }
        self.there.get(&format!("/v2/{REPOSITORY}/manifests/latest")).await.expect(StatusCode::OK);
        self.knows(&self.here.all_tags(REPOSITORY).await);
    }

    /// Makes sure that a list has what they pushed and nothing that they deleted.
    fn knows(&self, tags: &[String]) {
        for (tag, _) in &self.kept {
            assert!(tags.contains(tag), "{tag} is there");
        }
        for (tag, _) in &self.deleted {
            assert!(!tags.contains(tag), "{tag} is gone");
        }
    }
}

/// An image that nobody has pushed before, one layer of which is `common`.
fn some_image(common: &Layer) -> Image {
    Image::of(vec![common.clone(), Layer::random(50_000)])
}

#[tokio::test]
async fn people_at_two_servers_push_move_and_delete_at_once_and_lose_nothing() {
    const ROUNDS: usize = 9;
    let first = TestRegistry::start().await;
    let second = first.replica().await;
    let layer = Layer::random(100_000);
    let common: Vec<_> = (0..2).map(|_| some_image(&layer)).collect();
    let contested = some_image(&layer);
    first.user("alice").push(REPOSITORY, "latest", &common[0]).await;

    let people = (0..4).map(|number| {
        let mut person = Person::new(number, [&first, &second]);
        let (common, contested) = (common.clone(), contested.clone());
        tokio::spawn(async move {
            for round in 0..ROUNDS {
                person.work(&common, &contested, round + number).await;
            }
            person
        })
    });
    let people = futures_util::future::join_all(people.collect::<Vec<_>>()).await;
    let people: Vec<_> = people.into_iter().map(Result::unwrap).collect();

    let servers = [first.user("bob"), second.user("bob")];
    // Both show the same, once they look again at what they remembered.
    let shown = async |user: &User| {
        let mut shown = Vec::new();
        for tag in user.all_tags(REPOSITORY).await {
            let manifest = user.get(&format!("/v2/{REPOSITORY}/manifests/{tag}")).await;
            shown.push((tag, manifest.status, manifest.body));
        }
        shown
    };
    until(async || shown(&servers[0]).await == shown(&servers[1]).await).await;
    let shown = shown(&servers[1]).await;
    assert!(shown.iter().all(|(_, status, _)| *status == StatusCode::OK), "no tag leads nowhere: {shown:?}");
    let at = |wanted: &str| shown.iter().find(|(tag, ..)| tag == wanted).map(|(.., manifest)| manifest);
    assert!(people.iter().any(|person| at("latest") == person.moved.as_ref().map(|image| &image.manifest)));
    assert!(common.iter().any(|image| at("common") == Some(&image.manifest)));
    let tags: Vec<_> = shown.iter().map(|(tag, ..)| tag.clone()).collect();
    for user in &servers {
        let contested = user.head(&format!("/v2/{REPOSITORY}/manifests/{}", contested.digest())).await;
        assert_eq!(contested.status == StatusCode::OK, at("contested").is_some());
        for person in &people {
            person.knows(&tags);
            for (tag, image) in &person.kept {
                assert_eq!(user.pull_manifest(REPOSITORY, tag).await, image.manifest);
                for layer in &image.layers {
                    assert_eq!(user.pull(REPOSITORY, layer.digest()).await, *layer);
                }
            }
            for (_, image) in &person.deleted {
                let gone = user.get(&format!("/v2/{REPOSITORY}/manifests/{}", image.digest())).await;
                gone.expect(StatusCode::NOT_FOUND);
            }
        }
    }
    first.assert_blobs_whole();
}
