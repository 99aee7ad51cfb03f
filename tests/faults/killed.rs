//! A server that is killed at any instant keeps what it acknowledged, and shows nothing else.

use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use hyper::{Method, StatusCode};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::harness::{Image, Layer, MIB, TestRegistry, User, until, user::Answer};

/// How often servers are killed. CI's patience bounds it; `WHARF_TEST_KILLS` asks for more.
const KILLS: u32 = 300;

/// How many servers live and are killed beside each other, each on a folder of its own.
const SERVERS: u32 = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_outlives_any_kill() {
    let kills = std::env::var("WHARF_TEST_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(KILLS);
    let mut servers: JoinSet<()> =
        (0..SERVERS).map(|server| kill_while_people_push(server..kills, SERVERS)).collect();
    while let Some(server) = servers.join_next().await {
        server.unwrap();
    }
}

/// Kills one server at every `step`th of the instants that `kills` number, and looks at what it kept.
async fn kill_while_people_push(kills: Range<u32>, step: u32) {
    let carried: Arc<Mutex<Vec<Layer>>> = Arc::default();
    let mut sessions: Vec<_> = (0..2).map(|_| Session::new()).collect();
    let mut pushers: Vec<_> = (0..4).map(Pusher::new).collect();
    let mut registry = TestRegistry::start().await;
    let kills: Vec<_> = kills.step_by(step as usize).collect();
    for kill in &kills {
        let pushed = Arc::new(Semaphore::new(0));
        let pushes: Vec<_> = pushers
            .drain(..)
            .map(|mut pusher| {
                let user = registry.user("alice");
                let pushed = Arc::clone(&pushed);
                tokio::spawn(async move {
                    pusher.go_on(&user, &pushed).await;
                    pusher
                })
            })
            .collect();
        let carriers: Vec<_> = sessions
            .drain(..)
            .map(|mut session| {
                let user = registry.user("carol");
                let (pushed, carried) = (Arc::clone(&pushed), Arc::clone(&carried));
                tokio::spawn(async move {
                    while session.carry_on(&user).await {
                        carried.lock().unwrap().push(std::mem::replace(&mut session, Session::new()).layer);
                        pushed.add_permits(1);
                    }
                    session
                })
            })
            .collect();
        // Another instant each time, some within the first push, and however slow the machine is, most after another.
        // If nobody gets that far, those who fell by the way say why when they are waited for.
        drop(timeout(Duration::from_secs(60), pushed.acquire_many(kill % 4)).await);
        tokio::time::sleep(Duration::from_micros(u64::from(*kill) * 3700 % 20_000)).await;
        registry = registry.restart().await;
        for push in pushes {
            pushers.push(push.await.unwrap());
        }
        for carrier in carriers {
            sessions.push(carrier.await.unwrap());
        }
    }

    let bob = registry.user("bob");
    let mut carried = std::mem::take(&mut *carried.lock().unwrap());
    for mut session in sessions {
        assert!(session.carry_on(&bob).await, "what was cut last is carried on, too");
        carried.push(session.layer);
    }
    for layer in &carried {
        assert_eq!(bob.pull("team/app", layer.digest()).await, *layer);
    }
    for pusher in &mut pushers {
        pusher.settle(&bob).await.unwrap();
    }
    let listed = bob.all_tags("team/app").await;
    let (mut images, mut deletions, mut moves, mut turns) = (0, 0, 0, carried.len());
    for pusher in &pushers {
        pusher.finds_all(&bob, &listed).await;
        images += pusher.kept.len();
        deletions += pusher.deleted.len();
        moves += usize::from(pusher.moved.is_some());
        turns += pusher.turn - pusher.number;
    }
    let all = [images, carried.len(), deletions, moves];
    let enough = turns > kills.len() / 2 && !all.contains(&0);
    assert!(enough, "too little was acknowledged to tell: {all:?} images, blobs, deletions and tags moved");
    // What is listed beyond that was pushed whole, only its answer did not arrive.
    for tag in &listed {
        bob.pull_manifest("team/app", tag).await;
    }
    registry.assert_blobs_whole();
    // And it goes on.
    bob.push("team/app", "after", &Image::of(vec![Layer::random(1000)])).await;
}

/// Somebody who pushes images, moves a tag and deletes, at one server after another.
struct Pusher {
    /// Its first turn, so that not all do the same at once.
    number: usize,
    turn: usize,
    /// The tag that it moves.
    name: String,
    /// What was acknowledged, by tag.
    kept: Vec<(String, Image)>,
    /// Where the tag was moved to.
    moved: Option<Image>,
    /// Where it may have been moved to unheard.
    moving: Option<Image>,
    deleted: Vec<Deletion>,
    /// What may have been deleted unheard.
    deleting: Option<Deletion>,
}

struct Deletion {
    /// What is deleted: the tag, or the manifest, by its digest.
    reference: String,
    tag: String,
    image: Image,
}

type Gone = Box<dyn std::error::Error + Send + Sync>;

impl Pusher {
    fn new(number: usize) -> Self {
        Self {
            number,
            turn: number,
            name: format!("moving-{number}"),
            kept: Vec::new(),
            moved: None,
            moving: None,
            deleted: Vec::new(),
            deleting: None,
        }
    }

    /// Does one thing after another until the server goes away, and counts what was acknowledged.
    async fn go_on(&mut self, user: &User, pushed: &Semaphore) {
        if self.settle(user).await.is_err() {
            return;
        }
        loop {
            let done = match self.turn % 4 {
                2 => self.move_tag(user).await,
                3 if !self.kept.is_empty() => self.delete(user).await.is_ok(),
                _ => self.push(user).await,
            };
            if !done {
                return;
            }
            self.turn += 1;
            pushed.add_permits(1);
        }
    }

    async fn push(&mut self, user: &User) -> bool {
        // A tag that may have been pushed unheard is not taken again.
        let tag = format!("{}-{}", self.name, Layer::random(8).digest().hex());
        let image = some_image();
        let pushed = user.try_push("team/app", &tag, &image).await;
        if pushed {
            self.kept.push((tag, image));
        }
        pushed
    }

    async fn move_tag(&mut self, user: &User) -> bool {
        let image = self.moving.insert(some_image());
        let moved = user.try_push("team/app", &self.name, image).await;
        if moved {
            self.moved = self.moving.take();
        }
        moved
    }

    async fn delete(&mut self, user: &User) -> Result<(), Gone> {
        let (tag, image) = self.kept.swap_remove(0);
        let is_tag = self.deleted.len().is_multiple_of(2);
        let reference = if is_tag { tag.clone() } else { image.digest().to_string() };
        let deletion = self.deleting.insert(Deletion { reference, tag, image });
        deletion.ask(user).await?;
        self.deleted.extend(self.deleting.take());
        Ok(())
    }

    /// Looks what became of that whose answer did not arrive.
    async fn settle(&mut self, user: &User) -> Result<(), Gone> {
        let found = pulled(user, &self.name).await?;
        match self.moving.take() {
            Some(image) if found.as_ref() == Some(&image.manifest) => self.moved = Some(image),
            _ => {}
        }
        // It is neither torn nor older.
        assert_eq!(found.as_ref(), self.moved.as_ref().map(|image| &image.manifest), "{}", self.name);
        if let Some(deletion) = &self.deleting {
            if let Some(found) = pulled(user, &deletion.reference).await? {
                assert_eq!(found, deletion.image.manifest);
                deletion.ask(user).await?;
            }
            self.deleted.extend(self.deleting.take());
        }
        Ok(())
    }

    /// Makes sure that what was acknowledged is whole, and what was deleted gone.
    async fn finds_all(&self, user: &User, listed: &[String]) {
        let is_listed = |tag: &String| listed.binary_search(tag).is_ok();
        let moved = self.moved.iter().map(|image| (&self.name, image));
        for (tag, image) in self.kept.iter().map(|(tag, image)| (tag, image)).chain(moved) {
            assert!(is_listed(tag), "{tag} is listed");
            assert_eq!(user.pull_manifest("team/app", tag).await, image.manifest, "{tag}");
            for layer in &image.layers {
                assert_eq!(user.pull("team/app", layer.digest()).await, *layer);
            }
        }
        for Deletion { reference, tag, image } in &self.deleted {
            assert!(!is_listed(tag), "{tag} is deleted");
            let by_digest = pulled(user, &image.digest().to_string()).await.unwrap();
            assert_eq!(by_digest, (reference == tag).then(|| image.manifest.clone()), "{reference}");
        }
    }
}

impl Deletion {
    async fn ask(&self, user: &User) -> Result<(), Gone> {
        let path = format!("/v2/team/app/manifests/{}", self.reference);
        user.try_ask(&Method::DELETE, &path, &[], Bytes::new()).await?.expect(StatusCode::ACCEPTED);
        Ok(())
    }
}

fn some_image() -> Image {
    Image::of(vec![Layer::random(3_000), Layer::random(200_000)])
}

/// A manifest, if it is there.
async fn pulled(user: &User, reference: &str) -> Result<Option<Bytes>, Gone> {
    let path = format!("/v2/team/app/manifests/{reference}");
    let answer = user.try_ask(&Method::GET, &path, &[], Bytes::new()).await?;
    if answer.status == StatusCode::NOT_FOUND {
        return Ok(None);
    }
    Ok(Some(answer.expect(StatusCode::OK).body))
}

/// A blob on its way in chunks, which goes on at the next server when one is killed.
struct Session {
    layer: Layer,
    /// Where the next chunk goes, as the latest answer said.
    location: Option<String>,
    /// How many bytes were acknowledged.
    kept: usize,
    /// Whether it may have become a blob unheard.
    is_ending: bool,
}

impl Session {
    fn new() -> Self {
        Self { layer: Layer::random(200_000), location: None, kept: 0, is_ending: false }
    }

    /// Sends what is left of it, and tells whether the blob was acknowledged before the server went away.
    async fn carry_on(&mut self, user: &User) -> bool {
        match self.try_carry_on(user).await {
            Ok(()) => true,
            Err(_) => false,
        }
    }

    async fn try_carry_on(&mut self, user: &User) -> Result<(), Gone> {
        const CHUNK: usize = 70_000;
        const OCTETS: [(&str, &str); 1] = [("content-type", "application/octet-stream")];
        let blob = format!("/v2/team/app/blobs/{}", self.layer.digest());
        match self.location.clone() {
            None => {
                let begun =
                    user.try_ask(&Method::POST, "/v2/team/app/blobs/uploads/", &[], Bytes::new()).await?;
                self.moved(&begun.expect(StatusCode::ACCEPTED));
            }
            Some(location) => {
                let status = user.try_ask(&Method::GET, &location, &[], Bytes::new()).await?;
                if self.is_ending && status.status == StatusCode::NOT_FOUND {
                    user.try_ask(&Method::HEAD, &blob, &[], Bytes::new()).await?.expect(StatusCode::OK);
                    return Ok(());
                }
                let status = status.expect(StatusCode::NO_CONTENT);
                self.moved(&status);
                let end: usize = status.header("range").unwrap().strip_prefix("0-").unwrap().parse().unwrap();
                let end = if end == 0 { 0 } else { end + 1 };
                assert!(end >= self.kept, "{end} bytes of {} that were acknowledged", self.kept);
                self.kept = end;
            }
        }
        while self.kept < self.layer.bytes().len() {
            let chunk = self.layer.from(self.kept);
            let chunk = chunk.slice(..chunk.len().min(CHUNK));
            let length = chunk.len();
            let location = self.location.clone().unwrap();
            let sent = user.try_ask(&Method::PATCH, &location, &OCTETS, chunk).await?;
            self.moved(&sent.expect(StatusCode::ACCEPTED));
            self.kept += length;
        }
        self.is_ending = true;
        let last = format!("{}?digest={}", self.location.as_ref().unwrap(), self.layer.digest());
        user.try_ask(&Method::PUT, &last, &OCTETS, Bytes::new()).await?.expect(StatusCode::CREATED);
        Ok(())
    }

    fn moved(&mut self, answer: &Answer) {
        self.location = Some(answer.header("location").unwrap().to_owned());
    }
}

#[tokio::test]
async fn a_long_body_that_is_cut_by_a_kill_is_carried_on_from_its_checkpoint() {
    let registry = TestRegistry::start().await;
    let alice = registry.user("alice");
    let layer = Layer::random(72 * MIB);
    let upload = alice.begin_upload("team/app").await;
    let body = alice.send_of(72 * MIB, &upload, layer.first(70 * MIB)).await;
    let id = upload.id();
    let states = registry.data().join("repositories/team/app/_uploads").join(id).join("hashstates/sha256");
    let checkpoint = 64 * MIB;
    until(async || states.join(checkpoint.to_string()).exists()).await;
    let registry = registry.restart().await;
    drop(body);
    let alice = registry.user("alice");
    assert_eq!(alice.upload_end(&upload).await, checkpoint);
    alice.send(&upload, layer.from(checkpoint)).await;
    alice.finish(&upload, layer.digest()).await.expect(StatusCode::CREATED);
    assert_eq!(alice.pull("team/app", layer.digest()).await, layer);
}

#[tokio::test]
async fn an_upload_that_was_cut_by_a_kill_is_carried_on_by_another_replica() {
    let registry = TestRegistry::start().await;
    let alice = registry.user("alice");
    let layer = Layer::random(300_000);
    let upload = alice.begin_upload("team/app").await;
    alice.send(&upload, layer.first(100_000)).await;
    let replica = registry.replica().await;
    drop(registry);
    let bob = replica.user("bob");
    assert_eq!(bob.upload_end(&upload).await, 100_000);
    bob.send(&upload, layer.from(100_000)).await;
    bob.finish(&upload, layer.digest()).await.expect(StatusCode::CREATED);
    assert_eq!(bob.pull("team/app", layer.digest()).await, layer);
}
