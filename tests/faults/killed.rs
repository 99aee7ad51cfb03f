//! A server that is killed at any instant keeps what it acknowledged, and shows nothing else.

use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use hyper::{Method, StatusCode};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

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
    let acknowledged: Arc<Mutex<Vec<(String, Image)>>> = Arc::default();
    let carried: Arc<Mutex<Vec<Layer>>> = Arc::default();
    let mut sessions: Vec<_> = (0..2).map(|_| Session::new()).collect();
    let mut registry = TestRegistry::start().await;
    let kills: Vec<_> = kills.step_by(step as usize).collect();
    for kill in &kills {
        let pushed = Arc::new(Semaphore::new(0));
        let pushes: Vec<_> = (0..4)
            .map(|pusher| {
                let user = registry.user("alice");
                let pushed = Arc::clone(&pushed);
                let acknowledged = Arc::clone(&acknowledged);
                let name = format!("k{kill}-p{pusher}");
                tokio::spawn(async move {
                    for number in 0.. {
                        let image = Image::of(vec![Layer::random(3_000), Layer::random(200_000)]);
                        let tag = format!("{name}-n{number}");
                        if !user.try_push("team/app", &tag, &image).await {
                            return;
                        }
                        acknowledged.lock().unwrap().push((tag, image));
                        pushed.add_permits(1);
                    }
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
        drop(pushed.acquire_many(kill % 4).await);
        tokio::time::sleep(Duration::from_micros(u64::from(*kill) * 3700 % 20_000)).await;
        registry = registry.restart().await;
        for push in pushes {
            push.await.unwrap();
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
    let acknowledged = std::mem::take(&mut *acknowledged.lock().unwrap());
    let (images, blobs) = (acknowledged.len(), carried.len());
    let enough = images + blobs > kills.len() / 2 && images > 0 && blobs > 0;
    assert!(enough, "too few pushes were acknowledged to tell: {images} and {blobs}");
    let listed = bob.all_tags("team/app").await;
    for (tag, image) in &acknowledged {
        assert!(listed.binary_search(tag).is_ok(), "{tag} is listed");
        assert_eq!(bob.pull_manifest("team/app", tag).await, image.manifest, "{tag}");
        for layer in &image.layers {
            assert_eq!(bob.pull("team/app", layer.digest()).await, *layer);
        }
    }
    // What is listed beyond that was pushed whole, only its answer did not arrive.
    for tag in &listed {
        bob.pull_manifest("team/app", tag).await;
    }
    registry.assert_blobs_whole();
    // And it goes on.
    bob.push("team/app", "after", &Image::of(vec![Layer::random(1000)])).await;
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

    async fn try_carry_on(&mut self, user: &User) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
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
