//! The rules of a registry, each story told over every backend.

#![expect(clippy::unwrap_used, reason = "a story that goes wrong here fails its test")]
#![expect(clippy::duplicate_mod, reason = "each story is told over each backend")]

extern crate wharf_storage as storage;

mod harness;

#[path = "."]
mod on_a_volume {
    use super::harness::TestRegistry;

    /// So many stores are made for each property.
    const CASES: u32 = 16;

    fn empty_registry() -> TestRegistry {
        TestRegistry::on_a_volume()
    }

    mod catalog;
    mod faults;
    mod manifests;
    mod races;
    mod referrers;
    mod scale;
    mod tags;
    mod uploads;
}

#[path = "."]
mod in_a_bucket {
    use super::harness::TestRegistry;

    const CASES: u32 = 256;

    fn empty_registry() -> TestRegistry {
        TestRegistry::in_a_bucket()
    }

    mod catalog;
    mod faults;
    mod manifests;
    mod races;
    mod referrers;
    mod scale;
    mod tags;
    mod uploads;
}
