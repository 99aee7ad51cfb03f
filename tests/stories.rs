//! What people live through.

#![expect(clippy::duplicate_mod, reason = "some stories are told over each backend")]

mod audit;
mod can_i;
mod certificates;
mod configuration;
mod credential_provider;
mod health;
mod issuers;
mod large_blobs;
mod limits;
mod logs;
mod metrics;
mod permission;
mod proxies;
mod purges;
mod replicas;
mod restarts;
mod terminal;
mod traces;

#[path = "stories"]
mod on_a_volume {
    use crate::harness::registry::on_a_volume as settings;

    mod ranges;
    mod uploads;
}

#[path = "stories"]
mod in_a_bucket {
    use crate::harness::registry::in_a_bucket as settings;

    mod ranges;
    mod uploads;
}
