use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::Algorithm;

const IMAGE: &str = MediaType::OciManifest.as_str();
const INDEX: &str = MediaType::OciIndex.as_str();
const DOCKER: &str = MediaType::DockerManifest.as_str();
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

fn digest(content: &str) -> Digest {
    Digest::of(Algorithm::Sha256, content.as_bytes())
}

fn descriptor(media_type: &str, content: &str) -> serde_json::Value {
    json!({"mediaType": media_type, "digest": digest(content), "size": content.len()})
}

fn image() -> serde_json::Value {
    json!({
        "schemaVersion": 2,
        "mediaType": IMAGE,
        "config": descriptor(CONFIG, "config"),
        "layers": [descriptor(LAYER, "one"), descriptor(LAYER, "two")],
    })
}

fn index() -> serde_json::Value {
    json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor(IMAGE, "child")]})
}

/// The same document with some members set. `null` takes a member away.
fn with(mut document: serde_json::Value, members: serde_json::Value) -> serde_json::Value {
    for (name, value) in members.as_object().unwrap() {
        match value {
            serde_json::Value::Null => drop(document.as_object_mut().unwrap().remove(name)),
            value => document[name] = value.clone(),
        }
    }
    document
}

fn parse(document: &serde_json::Value) -> Result<Manifest, ManifestError> {
    Manifest::parse(None, document.to_string().as_bytes())
}

/// The message that a document is refused with.
#[track_caller]
fn refusal(document: &serde_json::Value) -> String {
    parse(document).expect_err("this should be refused").to_string()
}

#[track_caller]
fn text_refusal(text: &str) -> String {
    Manifest::parse(Some(IMAGE), text.as_bytes()).expect_err("this should be refused").to_string()
}

#[test]
fn an_image_tells_its_config_and_layers() {
    let manifest = parse(&image()).unwrap();
    assert_eq!(manifest.media_type(), MediaType::OciManifest);
    assert_eq!(manifest.config().unwrap().digest, digest("config"));
    assert_eq!(
        manifest.layers()[1],
        Descriptor {
            media_type: LAYER.to_owned(),
            digest: digest("two"),
            size: 3,
            urls: Vec::new(),
            platform: None
        }
    );
    assert!(
        manifest.children().is_empty() && manifest.subject().is_none() && manifest.annotations().is_empty()
    );
    let required: Vec<_> = manifest.required_blobs().map(|blob| blob.digest).collect();
    assert_eq!(required, [digest("config"), digest("one"), digest("two")]);
}

#[test]
fn an_index_tells_its_entries_whatever_they_are() {
    let buildkit = with(
        index(),
        json!({"manifests": [descriptor(LAYER, "layer"), descriptor("application/vnd.buildkit.cacheconfig.v0", "cache")]}),
    );
    let manifest = parse(&buildkit).unwrap();
    assert_eq!(manifest.media_type(), MediaType::OciIndex);
    let children: Vec<_> = manifest.children().iter().map(|child| child.digest).collect();
    assert_eq!(children, [digest("layer"), digest("cache")]);
    assert_eq!(manifest.required_blobs().count(), 0);
    assert!(parse(&with(index(), json!({"manifests": []}))).unwrap().children().is_empty());
}

#[test]
fn docker_manifests_and_lists_are_read_too() {
    let list = MediaType::DockerManifestList.as_str();
    let manifest = parse(&with(image(), json!({"mediaType": DOCKER}))).unwrap();
    assert_eq!((manifest.media_type(), manifest.layers().len()), (MediaType::DockerManifest, 2));
    let manifest = parse(&with(index(), json!({"mediaType": list}))).unwrap();
    assert_eq!((manifest.media_type(), manifest.children().len()), (MediaType::DockerManifestList, 1));
}

#[test]
fn header_and_content_must_agree_on_the_type() {
    let helm = with(image(), json!({"mediaType": null})).to_string();
    let list = with(index(), json!({"mediaType": null})).to_string();
    let image = image().to_string();
    let parse =
        |header, text: &str| Manifest::parse(header, text.as_bytes()).map(|manifest| manifest.media_type());
    let conflict = |header, text: &str| {
        assert!(
            matches!(parse(Some(header), text), Err(ManifestError::MediaTypeConflict { .. })),
            "{header} {text}"
        );
    };
    for header in [None, Some(IMAGE), Some("Application/Vnd.OCI.image.manifest.v1+JSON ; charset=utf-8")] {
        assert_eq!(parse(header, &image).unwrap(), MediaType::OciManifest);
        assert_eq!(parse(header, &helm).unwrap(), MediaType::OciManifest);
    }
    assert_eq!(parse(Some(INDEX), &list).unwrap(), MediaType::OciIndex);
    conflict(INDEX, &image);
    conflict(INDEX, &helm);
    conflict(IMAGE, &list);
    // It would be served as an OCI manifest: nothing in it says Docker.
    conflict(DOCKER, &helm);
    for header in ["application/json", "text/plain", "", "application/vnd.oci.artifact.manifest.v1+json"] {
        assert!(
            matches!(parse(Some(header), &image), Err(ManifestError::UnsupportedMediaType(_))),
            "{header}"
        );
    }
}

#[test]
fn schema_1_is_refused_by_name() {
    let pretty = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    for document in [
        json!({"schemaVersion": 1, "name": "a", "tag": "b", "fsLayers": [], "history": [], "signatures": []}),
        with(image(), json!({"mediaType": pretty})),
    ] {
        assert!(matches!(parse(&document), Err(ManifestError::SchemaOne)));
        assert!(matches!(Manifest::stored(document.to_string().as_bytes()), Err(ManifestError::SchemaOne)));
    }
    assert!(matches!(Manifest::parse(Some(pretty), b"{}"), Err(ManifestError::SchemaOne)));
}

#[test]
fn the_schema_version_is_the_number_2() {
    for version in
        [json!("2"), json!(2.0), json!(3), json!(0), json!(-2), json!(true), json!([2]), json!(null)]
    {
        let document = with(image(), json!({"schemaVersion": version}));
        assert!(matches!(parse(&document), Err(ManifestError::SchemaVersion)), "{version}");
    }
}

#[test]
fn nothing_is_both_an_image_and_an_index() {
    for (document, members) in [
        (image(), json!({"manifests": []})),
        (index(), json!({"layers": []})),
        (index(), json!({"config": descriptor(CONFIG, "config")})),
        (with(image(), json!({"mediaType": DOCKER})), json!({"manifests": index()["manifests"]})),
        // Without a type of its own, what has `manifests` is an index.
        (with(image(), json!({"mediaType": null})), json!({"manifests": []})),
    ] {
        let document = with(document, members);
        assert!(matches!(parse(&document), Err(ManifestError::Ambiguous { .. })), "{document}");
    }
}

#[test]
fn names_that_go_takes_for_others_are_refused() {
    for name in ["Layers", "MANIFESTS", "mediatype", "layerſ", "SCHEMAVERSION"] {
        let message = refusal(&with(image(), json!({name: []})));
        assert_eq!(message, format!("{name} differs only in case from a name that has a meaning"));
    }
    let mut document = image();
    document["layers"][1]["DIGEST"] = json!(digest("other"));
    assert_eq!(refusal(&document), "layers[1].DIGEST differs only in case from a name that has a meaning");
}

#[test]
fn unknown_members_are_nobodys_business() {
    let document = with(
        image(),
        json!({
            "x": {"y": [1, -2.5, "z", null, true, {"Digest": 1}]},
            "annotations": {"Digest": "sha256:none", "size": "1"},
        }),
    );
    assert_eq!(parse(&document).unwrap().annotations()["Digest"], "sha256:none");
}

#[test]
fn what_is_missing_or_wrong_is_named() {
    let change = |pointer: &str, value: serde_json::Value| {
        let mut document = with(
            image(),
            json!({"subject": descriptor(IMAGE, "subject"), "annotations": {"a": "b"}, "artifactType": "x/y"}),
        );
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        let parent = document.pointer_mut(parent).unwrap();
        match (parent, value) {
            (serde_json::Value::Object(members), serde_json::Value::Null) => drop(members.remove(name)),
            (parent, value) => parent[name] = value,
        }
        refusal(&document)
    };
    assert_eq!(change("/config", json!(null)), "config is missing");
    assert_eq!(change("/config", json!("x")), "config must be an object");
    assert_eq!(change("/layers", json!(null)), "layers is missing");
    assert_eq!(change("/layers", json!({})), "layers must be an array");
    assert_eq!(change("/layers", json!([1])), "layers[0] must be an object");
    assert_eq!(change("/layers/1/mediaType", json!(null)), "layers[1].mediaType is missing");
    assert_eq!(change("/layers/1/mediaType", json!(1)), "layers[1].mediaType must be a string");
    assert_eq!(change("/layers/1/digest", json!(null)), "layers[1].digest is missing");
    assert_eq!(change("/layers/1/urls", json!("http://x")), "layers[1].urls must be an array");
    assert_eq!(change("/layers/1/urls", json!([1])), "layers[1].urls must hold strings");
    assert_eq!(change("/subject/digest", json!(null)), "subject.digest is missing");
    assert_eq!(change("/subject", json!([])), "subject must be an object");
    assert_eq!(change("/artifactType", json!([])), "artifactType must be a string");
    assert_eq!(change("/annotations", json!([])), "annotations must be an object");
    assert_eq!(change("/annotations/a", json!(1)), "annotations must hold strings");
    assert_eq!(change("/mediaType", json!(1)), "mediaType must be a string");
    assert_eq!(change("/config/size", json!(null)), "config.size is missing");
    for size in [json!(-1), json!(1.5), json!("1"), json!(i64::MAX as u64 + 1), json!(1e30)] {
        assert_eq!(change("/config/size", size), "config.size must be a whole number of bytes, not negative");
    }
    assert_eq!(refusal(&with(index(), json!({"manifests": [{}]}))), "manifests[0].mediaType is missing");
    assert_eq!(refusal(&json!([])), "the manifest must be an object");
    assert_eq!(refusal(&json!("sha256")), "the manifest must be an object");
}

#[test]
fn a_list_that_go_left_null_is_empty() {
    let mut document = image();
    document["layers"] = json!(null);
    assert!(parse(&document).unwrap().layers().is_empty());
    let mut document = index();
    document["manifests"] = json!(null);
    assert!(parse(&document).unwrap().children().is_empty());
}

#[test]
fn every_digest_must_be_usable() {
    for (name, error) in [
        ("sha256:beef", "malformed digest: sha256 takes 64 lower-case hexadecimal digits"),
        (
            "md5:d41d8cd98f00b204e9800998ecf8427e",
            "unsupported digest algorithm \"md5\": use sha256 or sha512",
        ),
    ] {
        for member in ["config", "subject"] {
            let descriptor = json!({"mediaType": CONFIG, "size": 1, "digest": name});
            let refused = parse(&with(image(), json!({member: descriptor}))).unwrap_err();
            let ManifestError::Digest { member: named, source } = refused else { panic!("{refused}") };
            assert_eq!((named, source.to_string()), (format!("{member}.digest"), error.to_owned()));
        }
    }
    let sha512 = Digest::of(Algorithm::Sha512, b"x");
    let document = with(index(), json!({"manifests": [{"mediaType": IMAGE, "digest": sha512, "size": 1}]}));
    assert_eq!(parse(&document).unwrap().children()[0].digest, sha512);
}

#[test]
fn json_that_readers_could_take_differently_is_refused() {
    let image = image().to_string();
    let inner = |member: &str| format!("{{{member},{}", &image[1..]);
    for (text, message) in [
        (inner(r#""schemaVersion":2"#), "the name \"schemaVersion\" stands twice in an object"),
        (inner(r#""x":{"a":[{"b":1,"\u0062":2}]}"#), "the name \"b\" stands twice in an object"),
        (inner(r#""annotations":{"a":"1","a":"1"}"#), "the name \"a\" stands twice in an object"),
        (format!("{image} x"), "trailing characters"),
        (format!("{image}{image}"), "trailing characters"),
        (format!("{image}\0"), "trailing characters"),
        (image[..image.len() - 1].to_owned(), "EOF while parsing"),
        (String::new(), "EOF while parsing"),
        (inner(r#""x":NaN"#), "expected value"),
        (inner(r#""x":"\ud800""#), "the manifest is not valid JSON"),
        (inner(r#""x":01"#), "invalid number"),
        (inner("\"x\":\"a\nb\""), "control character"),
        (format!("\u{feff}{image}"), "the manifest begins with a byte order mark"),
    ] {
        let refused = text_refusal(&text);
        assert!(refused.contains(message), "{text:.60}: {refused}");
    }
    let mut bytes = inner(r#""x":"?""#).into_bytes();
    bytes[6] = 0xff;
    assert!(matches!(Manifest::parse(None, &bytes), Err(ManifestError::Utf8 { at: 6 })));
    // White space around it is JSON, and stays.
    assert!(Manifest::parse(None, format!(" \r\n\t{image}\n").as_bytes()).is_ok());
}

#[test]
fn depth_and_size_are_bounded() {
    let nested = |depth: usize| {
        let value = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        format!(r#"{{"x":{value},{}"#, &image().to_string()[1..])
    };
    assert!(Manifest::parse(None, nested(63).as_bytes()).is_ok());
    for depth in [64, 10_000, 2_000_000] {
        assert!(text_refusal(&nested(depth)).contains("nested more than 64 levels deep"));
    }
    let open = "{\"x\":".repeat(10_000);
    assert!(text_refusal(&open).contains("nested more than 64 levels deep"));
    let many = format!("[{}0]", "0,".repeat(2_000_000));
    assert!(text_refusal(&many).contains("more than 262144 values"));
    // A fallback tag may list as many referrers as a subject has.
    let entry = with(
        descriptor(IMAGE, "child"),
        json!({"artifactType": "a/b", "annotations": {"a": "1", "b": "2", "c": "3"}}),
    );
    assert_eq!(
        parse(&with(index(), json!({"manifests": vec![entry; 10_000]}))).unwrap().children().len(),
        10_000
    );
}

#[test]
fn layers_that_nobody_pushes_are_not_required() {
    let mut elsewhere = descriptor(LAYER, "elsewhere");
    elsewhere["urls"] = json!(["https://example.com/layer"]);
    let mut empty_urls = descriptor(LAYER, "here");
    empty_urls["urls"] = json!([]);
    let document = with(
        image(),
        json!({"layers": [
            elsewhere,
            empty_urls,
            descriptor("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "foreign"),
            descriptor("application/vnd.oci.image.layer.nondistributable.v1.tar", "a"),
            descriptor("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", "b"),
            descriptor("application/vnd.oci.image.layer.nondistributable.v1.tar+zstd", "c"),
        ]}),
    );
    let manifest = parse(&document).unwrap();
    let required: Vec<_> = manifest.required_blobs().map(|blob| blob.digest).collect();
    assert_eq!(required, [digest("config"), digest("here")]);
    assert_eq!(manifest.layers()[0].urls, ["https://example.com/layer"]);
}

#[test]
fn a_referrer_shows_what_kind_of_artifact_it_is() {
    let shown = |document| {
        let manifest = parse(&document).unwrap();
        manifest.artifact_type().map(str::to_owned)
    };
    assert_eq!(shown(with(image(), json!({"artifactType": "a/b"}))).as_deref(), Some("a/b"));
    assert_eq!(shown(image()).as_deref(), Some(CONFIG));
    assert_eq!(shown(with(image(), json!({"artifactType": ""}))).as_deref(), Some(CONFIG));
    assert_eq!(shown(index()), None);
    assert_eq!(shown(with(index(), json!({"artifactType": "a/b"}))).as_deref(), Some("a/b"));

    let document = with(
        image(),
        json!({
            "artifactType": "a/b",
            "annotations": {"k": "v"},
            "subject": descriptor(IMAGE, "subject"),
        }),
    );
    let manifest = parse(&document).unwrap();
    assert_eq!(manifest.subject().unwrap().digest, digest("subject"));
    let referrer = manifest.as_referrer(digest("me"), 7);
    let entry = json!({
        "mediaType": IMAGE,
        "digest": digest("me"),
        "size": 7,
        "artifactType": "a/b",
        "annotations": {"k": "v"},
    });
    assert_eq!(serde_json::to_value(&referrer).unwrap(), entry);
    assert_eq!(serde_json::from_value::<ReferrerDescriptor>(entry).unwrap(), referrer);

    let entry = serde_json::to_value(parse(&index()).unwrap().as_referrer(digest("me"), 7)).unwrap();
    assert_eq!(entry, json!({"mediaType": INDEX, "digest": digest("me"), "size": 7}));
}

#[test]
fn a_stored_manifest_has_a_type_even_where_a_push_would_be_refused() {
    let stored = |text: &str| Manifest::stored(text.as_bytes());
    for (document, media_type) in [
        (image(), MediaType::OciManifest),
        (with(image(), json!({"mediaType": DOCKER})), MediaType::DockerManifest),
        (with(image(), json!({"mediaType": null})), MediaType::OciManifest),
        (index(), MediaType::OciIndex),
        (with(index(), json!({"mediaType": null})), MediaType::OciIndex),
        (with(index(), json!({"mediaType": ""})), MediaType::OciIndex),
        (with(image(), json!({"config": {"digest": "md5:1", "size": -1}})), MediaType::OciManifest),
    ] {
        assert_eq!(stored(&document.to_string()).unwrap(), media_type, "{document}");
    }
    assert_eq!(stored(r#"{"schemaVersion":2,"manifests":null}"#).unwrap(), MediaType::OciManifest);
    assert_eq!(
        stored(r#"{"a":1,"a":2,"schemaVersion":2,"schemaVersion":2}"#).unwrap(),
        MediaType::OciManifest
    );
    for torn in ["", "{", r#"{"schemaVersion":2"#, "[]", "null"] {
        assert!(matches!(stored(torn), Err(ManifestError::Json(_))), "{torn}");
    }
    assert!(matches!(stored("{}"), Err(ManifestError::SchemaVersion)));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Manifest::parse(None, &bytes);
        let _ = Manifest::stored(&bytes);
    }

    /// Cuts and changes reach further into the reader than noise does.
    #[test]
    fn no_damage_to_a_manifest_makes_it_panic(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
        let mut bytes = image().to_string().into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if cut { bytes.truncate(at); }
        if let Ok(manifest) = Manifest::parse(None, &bytes) {
            prop_assert_eq!(Manifest::stored(&bytes).unwrap(), manifest.media_type());
        }
    }

    #[test]
    fn layers_and_sizes_come_back_as_they_were_written(
        layers in proptest::collection::vec((any::<[u8; 32]>(), 0..=i64::MAX as u64, "\\PC{0,20}"), 0..20)
    ) {
        let layers: Vec<Descriptor> = layers
            .into_iter()
            .map(|(hash, size, media_type)| Descriptor { media_type, digest: Digest::Sha256(hash), size, urls: vec![], platform: None })
            .collect();
        let written: Vec<_> = layers
            .iter()
            .map(|it| json!({"size": it.size, "mediaType": it.media_type, "digest": it.digest}))
            .collect();
        let manifest = parse(&with(image(), json!({"layers": written}))).unwrap();
        prop_assert_eq!(manifest.layers(), layers);
    }
}
