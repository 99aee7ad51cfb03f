//! Tags, against a sorted list.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use storage::{DeletedTags, Reference, Tag, layout};

use super::{CASES, empty_registry};
use crate::harness::{Artifact, cases, name, tell};

fn tag() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec!["v1", "v1-a", "v1.2", "v1_2", "v10", "v1.2-a", "V1", "_", "_v1", "latest"])
            .prop_map(str::to_owned),
        "[a-zA-Z0-9_][a-c._-]{0,3}",
    ]
}

#[derive(Clone, Debug)]
enum Act {
    Point(String, usize),
    Delete(String),
    /// What a crash of distribution leaves of a tag.
    Tear(String),
    DeleteManifest(usize),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        8 => (tag(), 0..3_usize).prop_map(|(tag, artifact)| Act::Point(tag, artifact)),
        2 => tag().prop_map(Act::Delete),
        1 => tag().prop_map(Act::Tear),
        1 => (0..3_usize).prop_map(Act::DeleteManifest),
    ]
}

fn texts(tags: &[Tag]) -> Vec<String> {
    tags.iter().map(|tag| tag.as_str().to_owned()).collect()
}

proptest! {
    #![proptest_config(cases(CASES))]

    #[test]
    fn tags_point_where_they_were_pointed_last_and_list_in_byte_order(
        acts in prop::collection::vec(act(), 1..24),
        after in prop::option::of(prop_oneof![4 => tag(), 1 => any::<String>()]),
        limit in 1..5_usize,
    ) {
        tell(async {
            let registry = empty_registry();
            let artifacts = ["one", "two", "three"].map(Artifact::noted);
            let mut tags = BTreeMap::new();
            let mut pushed = [false; 3];
            let deleter = registry.registry.deleter(name("team/app"));
            for act in acts {
                match act {
                    Act::Point(tag, artifact) => {
                        registry.push("team/app", &artifacts[artifact], &[&tag]).await;
                        pushed[artifact] = true;
                        tags.insert(tag, artifact);
                    }
                    Act::Delete(tag) => {
                        let existed = deleter.delete_tag(&tag.parse().unwrap()).await.unwrap();
                        prop_assert_eq!(existed, tags.remove(&tag).is_some());
                    }
                    Act::Tear(tag) => {
                        if tags.remove(&tag).is_some() {
                            let link = layout::tag_link(&name("team/app"), &tag.parse().unwrap());
                            registry.backend.write(&link, Bytes::new()).await.unwrap();
                            // The other replica deletes what is left, so that the model may forget it.
                            let deleter = registry.another_replica().deleter(name("team/app"));
                            let page = registry.another_replica().reader(name("team/app"));
                            let page = page.tags(None, 1000).await.unwrap();
                            prop_assert!(page.is_none_or(|page| page.tags.iter().all(|listed| listed.as_str() != tag)));
                            deleter.delete_tag(&tag.parse().unwrap()).await.unwrap();
                        }
                    }
                    Act::DeleteManifest(artifact) => {
                        let gone = deleter.delete_manifest(&artifacts[artifact].digest).await.unwrap();
                        let expected = tags.extract_if(.., |_, pointed| *pointed == artifact);
                        let expected: Vec<String> = expected.map(|(tag, _)| tag).collect();
                        prop_assert_eq!(gone.map(|gone| texts(gone.named())), pushed[artifact].then_some(expected));
                        pushed[artifact] = false;
                    }
                }
            }

            let reader = registry.another_replica().reader(name("team/app"));
            for (tag, artifact) in &tags {
                let manifest = reader.manifest(&Reference::Tag(tag.parse().unwrap())).await.unwrap().unwrap();
                prop_assert_eq!(manifest.digest, artifacts[*artifact].digest);
            }

            let expected: Vec<&String> =
                tags.keys().filter(|tag| after.as_ref().is_none_or(|after| *tag > after)).collect();
            let mut after = after.clone();
            let mut listed = Vec::new();
            while let Some(page) = reader.tags(after.as_deref(), limit).await.unwrap() {
                prop_assert!(page.tags.len() == limit || !page.more);
                listed.extend(page.tags.iter().map(|tag| tag.as_str().to_owned()));
                match page.tags.last() {
                    Some(last) if page.more => after = Some(last.as_str().to_owned()),
                    _ => break,
                }
            }
            prop_assert_eq!(listed.iter().collect::<Vec<_>>(), expected);
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn a_repository_that_was_never_pushed_to_has_no_list_of_tags() {
    let registry = empty_registry();
    assert!(registry.reader("team/app").tags(None, 10).await.unwrap().is_none());
    registry.push("team/app/nested", &Artifact::noted("any"), &["v1"]).await;
    assert!(registry.reader("team/app").tags(None, 10).await.unwrap().is_none());
    registry.push("team/app", &Artifact::noted("any"), &[]).await;
    let page = registry.reader("team/app").tags(None, 10).await.unwrap().unwrap();
    assert!(page.tags.is_empty() && !page.more);
}

#[tokio::test]
async fn a_page_of_no_tags_says_whether_any_follow() {
    let registry = empty_registry();
    registry.push("team/app", &Artifact::noted("any"), &["v1", "v2"]).await;
    let reader = registry.reader("team/app");
    let more = async |after| reader.tags(after, 0).await.unwrap().unwrap().more;
    assert!(more(None).await);
    assert!(more(Some("v1")).await);
    assert!(!more(Some("v2")).await);
}

#[tokio::test]
async fn a_torn_tag_is_healed_by_the_next_push() {
    let registry = empty_registry();
    let artifact = Artifact::noted("any");
    registry.push("team/app", &artifact, &["v0", "v1"]).await;
    let link = layout::tag_link(&name("team/app"), &"v1".parse().unwrap());
    let whole = artifact.digest.to_string();
    for left in [0, 1, 7, 40, 70] {
        registry.backend.write(&link, Bytes::copy_from_slice(&whole.as_bytes()[..left])).await.unwrap();
        let reader = registry.another_replica().reader(name("team/app"));
        let v1 = Reference::Tag("v1".parse().unwrap());
        assert!(reader.manifest(&v1).await.unwrap().is_none());
        let tags = reader.tags(None, 10).await.unwrap().unwrap().tags;
        assert_eq!(tags.iter().map(|tag| tag.as_str()).collect::<Vec<_>>(), ["v0"], "{left} bytes are left");
        registry.push("team/app", &artifact, &["v1"]).await;
        assert_eq!(reader.manifest(&v1).await.unwrap().unwrap().bytes, artifact.bytes);
    }
}

#[tokio::test]
async fn deleting_a_manifest_takes_its_tags_along_and_no_others() {
    let registry = empty_registry();
    let (old, new) = (Artifact::noted("old"), Artifact::noted("new"));
    registry.push("team/app", &old, &["v1", "v1-a", "latest"]).await;
    registry.push("team/app", &new, &["latest", "v2"]).await;
    registry.push("team/other", &old, &["v1"]).await;
    let deleter = registry.registry.deleter(name("team/app"));
    let gone = deleter.delete_manifest(&old.digest).await.unwrap().unwrap();
    assert_eq!((texts(gone.named()), gone.count()), (vec!["v1".to_owned(), "v1-a".to_owned()], 2));
    assert_eq!(deleter.delete_manifest(&old.digest).await.unwrap(), None);
    for registry in [registry.registry.clone(), registry.another_replica()] {
        let reader = registry.reader(name("team/app"));
        let tags = reader.tags(None, 10).await.unwrap().unwrap().tags;
        assert_eq!(tags.iter().map(|tag| tag.as_str()).collect::<Vec<_>>(), ["latest", "v2"]);
        assert!(reader.manifest(&Reference::Digest(old.digest)).await.unwrap().is_none());
        let elsewhere = registry.reader(name("team/other"));
        assert!(elsewhere.manifest(&Reference::Tag("v1".parse().unwrap())).await.unwrap().is_some());
    }
}

#[tokio::test]
async fn of_many_tags_that_go_with_a_manifest_the_first_are_named_and_all_are_counted() {
    let registry = empty_registry();
    let artifact = Artifact::noted("any");
    let tags: Vec<String> = (0..DeletedTags::MOST_NAMED + 5).map(|number| format!("v{number:03}")).collect();
    let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
    registry.push("team/app", &artifact, &tags).await;
    let deleter = registry.registry.deleter(name("team/app"));
    let gone = deleter.delete_manifest(&artifact.digest).await.unwrap().unwrap();
    assert_eq!(texts(gone.named()), tags[..DeletedTags::MOST_NAMED]);
    assert_eq!(gone.count(), tags.len());
    let left = registry.reader("team/app").tags(None, 10).await.unwrap();
    assert!(left.is_none_or(|page| page.tags.is_empty()));
}
