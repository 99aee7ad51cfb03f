//! What a page costs, in calls of the backend: it does not grow with what lies beside the page.

use bytes::Bytes;
use storage::backend::around::Verb;
use storage::{Algorithm, Digest, layout};

use super::empty_registry;
use super::referrers::{fallback_tag, keep};
use crate::harness::{Artifact, calls, name, referrers};

const FEW: usize = 500;
const MANY: usize = 2000;
const PAGE: usize = 100;

fn numbered(number: usize) -> String {
    format!("n{number:06}")
}

fn link(content: &str) -> (Digest, Bytes) {
    let digest = Digest::of(Algorithm::Sha256, content.as_bytes());
    (digest, Bytes::from(digest.to_string()))
}

#[tokio::test]
async fn a_page_of_tags_costs_two_calls_however_many_there_are() {
    let registry = empty_registry();
    let (_, points) = link("manifest");
    for number in 0..MANY {
        let key = layout::tag_link(&name("team/app"), &numbered(number).parse().unwrap());
        registry.backend.write(&key, points.clone()).await.unwrap();
    }
    for after in [None, Some(numbered(MANY / 2))] {
        let paged = calls(&registry, async |registry| {
            let reader = registry.reader(name("team/app"));
            let page = reader.tags(after.as_deref(), PAGE).await.unwrap().unwrap();
            assert_eq!(page.tags.len(), PAGE);
            let first = after.as_ref().map_or(0, |_| MANY / 2 + 1);
            assert_eq!(page.tags[0].as_str(), numbered(first));
        });
        assert_eq!(paged.await, [(Verb::Sizes, 1), (Verb::Children, 1)]);
    }
}

#[tokio::test]
async fn a_page_of_repositories_costs_as_much_among_few_as_among_many() {
    let registry = empty_registry();
    let (digest, points) = link("manifest");
    let mut paged = Vec::new();
    for (begin, end) in [(0, FEW), (FEW, MANY)] {
        for number in begin..end {
            let key = layout::revision_link(&name(&numbered(number)), &digest);
            registry.backend.write(&key, points.clone()).await.unwrap();
        }
        for after in [None, Some(numbered(end / 2))] {
            let page = calls(&registry, async |registry| {
                let page = registry.catalog(after.as_deref(), PAGE).await.unwrap();
                assert_eq!(page.repositories.len(), PAGE);
                let first = after.as_ref().map_or(0, |_| end / 2 + 1);
                assert_eq!(page.repositories[0].as_str(), numbered(first));
            });
            paged.push(page.await);
        }
    }
    // A look at each repository, and one below it: there may be more.
    let [(Verb::Children, calls)] = paged[0][..] else { panic!("{paged:?}") };
    assert!(calls <= 2 * (PAGE as u64 + 2), "{calls}");
    assert_eq!(paged[0], paged[2]);
    assert_eq!(paged[1], paged[3]);
}

#[tokio::test]
async fn referrers_are_listed_for_the_first_time_without_reading_their_manifests() {
    let registry = empty_registry();
    let subject = Digest::of(Algorithm::Sha256, b"subject");
    for number in 0..FEW {
        registry.push("team/app", &Artifact::about(Some(subject), &numbered(number)), &[]).await;
    }
    let listed = calls(&registry, async |registry| {
        assert_eq!(referrers(&registry.reader(name("team/app")), &subject).await.len(), FEW);
    });
    // The fallback tag; the links by either algorithm, and whether they hold; the descriptors of all at once.
    assert_eq!(listed.await, [(Verb::Read, 1), (Verb::ReadMany, 1), (Verb::Sizes, 2), (Verb::Children, 2)]);
}

#[tokio::test]
async fn referrers_that_a_fallback_tag_lists_are_read_together_and_once() {
    let registry = empty_registry();
    let subject = Digest::of(Algorithm::Sha256, b"subject");
    // Every other one is none of the subject's.
    let artifacts: Vec<_> = (0..2 * FEW)
        .map(|number| Artifact::about((number % 2 == 0).then_some(subject), &numbered(number)))
        .collect();
    for artifact in &artifacts {
        keep(&registry, &artifact.digest, &artifact.bytes).await;
    }
    registry.push("team/app", &Artifact::index_of(&artifacts), &[&fallback_tag(&subject)]).await;
    let listed = calls(&registry, async |registry| {
        for _ in 0..2 {
            assert_eq!(referrers(&registry.reader(name("team/app")), &subject).await.len(), FEW);
        }
    });
    let listed = listed.await;
    assert!(listed.contains(&(Verb::ReadMany, 1)), "{listed:?}");
}

#[tokio::test]
async fn a_page_of_referrers_costs_as_much_among_few_as_among_many() {
    let registry = empty_registry();
    let subject = Digest::of(Algorithm::Sha256, b"subject");
    // Four fill what is read at once.
    let large = "x".repeat(300_000);
    let mut costs = Vec::new();
    for numbers in [0..10, 10..40] {
        for number in numbers {
            registry
                .push("team/app", &Artifact::about(Some(subject), &format!("{number}{large}")), &[])
                .await;
        }
        let paged = calls(&registry, async |registry| {
            let mut list = registry.reader(name("team/app")).referrers(&subject, None).await.unwrap();
            let first = list.next().await.unwrap().unwrap();
            let reader = registry.reader(name("team/app"));
            let second = reader.referrers(&subject, Some(&first.digest)).await.unwrap().next().await.unwrap();
            assert_eq!(list.next().await.unwrap(), second);
            assert!(registry.cache_usage().iter().find(|it| it.name == "referrers").unwrap().entries <= 4);
        });
        costs.push(paged.await);
    }
    assert_eq!(costs[0], costs[1]);
}
