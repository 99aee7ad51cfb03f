//! Names, tags and references survive their text, and none can leave the folder that it is put in.
#![no_main]

use libfuzzer_sys::fuzz_target;
use storage::{Reference, RepositoryName, Tag};

fuzz_target!(|text: &str| {
    if let Ok(name) = text.parse::<RepositoryName>() {
        assert_eq!(name.as_str(), text);
        assert!(text.len() <= RepositoryName::MAX_BYTES);
        assert!(
            text.split('/').all(|component| !component.is_empty() && !component.starts_with(['.', '_', '-']))
        );
        assert_eq!(name.image().map_or(0, |image| image.len() + 1) + name.namespace().len(), text.len());
    }
    if let Ok(tag) = text.parse::<Tag>() {
        assert_eq!(tag.as_str(), text);
        assert!(!text.contains(['/', ':', '\0']) && !text.starts_with('.'));
    }
    if let Ok(reference) = text.parse::<Reference>() {
        assert_eq!(reference.to_string(), text);
        assert_eq!(matches!(reference, Reference::Digest(_)), text.contains(':'));
    }
});
