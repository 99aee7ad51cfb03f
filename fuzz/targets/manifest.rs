//! What is taken for a manifest is JSON to everyone, has the type that it will be served with, and its entry in a list
//! of referrers can be read back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use storage::{Algorithm, Digest, Manifest, MediaType, ReferrerDescriptor};

fuzz_target!(|data: &[u8]| {
    let stored = Manifest::stored(data);
    let Ok(manifest) = Manifest::parse(None, data) else { return };
    let media_type = manifest.media_type();
    assert_eq!(stored.expect("what is accepted can be served"), media_type);
    for header in MediaType::ALL {
        assert_eq!(Manifest::parse(Some(header.as_str()), data).is_ok(), header == media_type);
    }

    let document: serde_json::Value = serde_json::from_slice(data).expect("what is accepted is JSON");
    assert_eq!(document["schemaVersion"], 2);
    let length = |name: &str| document[name].as_array().map_or(0, Vec::len);
    assert_eq!((manifest.layers().len(), manifest.children().len()), (length("layers"), length("manifests")));
    assert_eq!(manifest.config().is_none(), media_type.is_index());
    assert!(manifest.required_blobs().count() <= 1 + manifest.layers().len());

    let referrer = manifest.as_referrer(Digest::of(Algorithm::Sha256, data), data.len() as u64);
    let entry = serde_json::to_vec(&referrer).expect("it holds strings and numbers");
    assert_eq!(serde_json::from_slice::<ReferrerDescriptor>(&entry).expect("it was just written"), referrer);
});
