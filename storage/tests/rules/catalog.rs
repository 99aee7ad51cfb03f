//! The catalog, against a sorted list.

use std::collections::BTreeSet;

use proptest::prelude::*;
use storage::backend::around::Verb;

use super::{CASES, empty_registry};
use crate::harness::{Artifact, calls, cases, tell};

/// Names whose folders come in another order than they do: `-` and `.` are less than `/`, the rest is more.
fn name() -> impl Strategy<Value = String> {
    let segment = prop::sample::select(vec![
        "a", "b", "a-b", "a.b", "a_b", "a--b", "a0", "v1", "v1-a", "v1.2", "v1.2-a",
    ]);
    prop::collection::vec(segment, 1..4).prop_map(|segments| segments.join("/"))
}

/// Where a client may ask to begin: after a name, after something that looks like one, after anything.
fn after() -> impl Strategy<Value = Option<String>> {
    prop::option::of(prop_oneof![
        4 => name(),
        1 => (name(), "[-/._0z]").prop_map(|(name, more)| name + &more),
        1 => any::<String>(),
    ])
}

proptest! {
    #![proptest_config(cases(CASES))]

    #[test]
    fn the_catalog_pages_through_the_names_in_byte_order(
        names in prop::collection::btree_set(name(), 0..14),
        without_manifests in prop::collection::vec(name(), 0..3),
        after in after(),
        limit in 1..5_usize,
    ) {
        tell(async {
            let registry = empty_registry();
            for name in &without_manifests {
                registry.push_blob(name, b"a repository that only has a blob is not listed").await;
            }
            for name in &names {
                registry.push(name, &Artifact::noted("any"), &[]).await;
            }
            let expected: Vec<&String> =
                names.iter().filter(|name| after.as_ref().is_none_or(|after| *name > after)).collect();

            let mut after = after.clone();
            let mut listed = Vec::new();
            loop {
                let page = registry.registry.catalog(after.as_deref(), limit).await.unwrap();
                listed.extend(page.repositories.iter().map(|name| name.as_str().to_owned()));
                prop_assert!(page.repositories.len() == limit || !page.more);
                match page.repositories.last() {
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
async fn a_page_of_nothing_says_whether_anything_follows() {
    let registry = empty_registry();
    let page = registry.registry.catalog(None, 0).await.unwrap();
    assert!(page.repositories.is_empty() && !page.more);
    registry.push("a/b", &Artifact::noted("any"), &[]).await;
    let page = registry.registry.catalog(None, 0).await.unwrap();
    assert!(page.repositories.is_empty() && page.more);
}

#[tokio::test]
async fn more_repositories_than_are_listed_at_once_are_all_found() {
    let registry = empty_registry();
    let names: BTreeSet<String> =
        (0..450).map(|n| format!("team{}/app-{n}", if n % 5 == 0 { "-b" } else { "" })).collect();
    for name in &names {
        registry.push(name, &Artifact::noted("any"), &[]).await;
    }
    let page = registry.registry.catalog(None, 1000).await.unwrap();
    assert!(page.repositories.iter().map(|name| name.as_str()).eq(names.iter().map(String::as_str)));
    assert!(!page.more);
    let middle = names.iter().nth(222).unwrap();
    let page = registry.registry.catalog(Some(middle), 10).await.unwrap();
    assert!(
        page.repositories.iter().map(|name| name.as_str()).eq(names
            .iter()
            .skip(223)
            .take(10)
            .map(String::as_str))
    );
    assert!(page.more);
}

#[tokio::test]
async fn a_place_to_begin_that_is_no_name_leads_nowhere_else() {
    let registry = empty_registry();
    registry.push("team/app", &Artifact::noted("any"), &[]).await;
    // From the beginning: the root, `team`, `team/app`; what each of the two has of manifests, and of children.
    let all = [(Verb::Children, 5)];
    let long = "a".repeat(300);
    for after in [
        "",
        ".",
        "..",
        "../",
        "../blobs/",
        "../../../../proc/1",
        "../../../../../../../../proc/1",
        "./a",
        "/",
        "/etc/",
        "\0",
        "\0/x",
        "a\0b",
        "a\0/",
        "_layers/sha256/",
        &long,
        &format!("{long}/b"),
        &format!("a/{long}"),
    ] {
        let listed = calls(&registry, async |registry| {
            let page = registry.catalog(Some(after), 10).await.unwrap();
            assert_eq!(
                page.repositories.iter().map(|name| name.as_str()).collect::<Vec<_>>(),
                ["team/app"],
                "{after:?}"
            );
        });
        // `a/` could hold what comes after `a/aaa…`, and is looked into.
        let expected = if after.starts_with("a/") { [(Verb::Children, 6)] } else { all };
        assert_eq!(listed.await, expected, "{after:?}");
    }
    // It is enough that it could be the beginning of a name.
    for after in ["team/", "team/ap", "team/app-", "team//", "team/../", "team/.", "team/\0"] {
        let page = registry.registry.catalog(Some(after), 10).await.unwrap();
        assert_eq!(page.repositories.len(), usize::from("team/app" > after), "{after:?}");
    }
}
