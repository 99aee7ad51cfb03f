//! A server that is killed at any instant keeps what it acknowledged, and shows nothing else.

use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::StatusCode;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::harness::{Image, Layer, TestRegistry};

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
        // Another instant each time, some within the first push, and however slow the machine is, most after another.
        drop(pushed.acquire_many(kill % 4).await);
        tokio::time::sleep(Duration::from_micros(u64::from(*kill) * 3700 % 20_000)).await;
        registry = registry.restart().await;
        for push in pushes {
            push.await.unwrap();
        }
    }

    let bob = registry.user("bob");
    let acknowledged = std::mem::take(&mut *acknowledged.lock().unwrap());
    let count = acknowledged.len();
    assert!(count > kills.len() / 2, "too few pushes were acknowledged to tell: {count}");
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
