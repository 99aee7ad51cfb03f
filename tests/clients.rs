//! The programs people use: each pushes, pulls and asks as its users do.
//!
//! Every program talks to a registry of its own and leaves its files in a home of its own. What a test claims is what the
//! user relies on: that an image comes back byte by byte, that it runs, that a signature verifies. Those that ask for most are tried
//! over each backend, and those that log in, beside a real cluster and one on paper.

#![expect(clippy::duplicate_mod, reason = "these are tried over each backend or beside each cluster")]

mod both_ways;
mod buildah;
mod containerd;
mod containerd_2;
mod containers;
mod cosign;
mod curl;
mod helm;
mod large_images;
mod legacy_tokens;
mod own_image;
mod python;
mod regctl;
mod seed_case;
mod team;

#[path = "clients"]
mod on_a_volume {
    use crate::harness::registry::on_a_volume as settings;

    mod crane;
    mod oras;
    mod podman;
    mod skopeo;
}

#[path = "clients"]
mod in_a_bucket {
    use crate::harness::registry::in_a_bucket as settings;

    mod crane;
    mod oras;
    mod podman;
    mod skopeo;
}

#[path = "clients"]
mod beside_a_cluster {
    use crate::clients::team::in_a_cluster as new_team;

    mod logins;
}

#[path = "clients"]
mod beside_a_paper_cluster {
    use crate::clients::team::on_paper as new_team;

    mod logins;
}
