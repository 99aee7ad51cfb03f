//! The API, asked request by request without a network: what no client and no conformance suite does.
//!
//! Each story is told over each backend; those about requests that never reach one are told once.

#![expect(clippy::duplicate_mod, reason = "each story is told over each backend")]

mod asking;
mod malformed;
mod modes;
mod permission;
mod raw;

#[path = "api"]
mod on_a_volume {
    use super::asking::TestApi;

    fn start() -> TestApi {
        TestApi::on_a_volume()
    }

    mod blobs;
    mod lists;
    mod manifests;
    mod uploads;
}

#[path = "api"]
mod in_a_bucket {
    use super::asking::TestApi;

    fn start() -> TestApi {
        TestApi::in_a_bucket()
    }

    mod blobs;
    mod lists;
    mod manifests;
    mod uploads;
}
