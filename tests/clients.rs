//! The programs people use: each pushes, pulls and asks as its users do.
//!
//! Every program talks to a registry of its own and leaves its files in a home of its own. What a test claims is what the
//! user relies on: that an image comes back byte by byte, that it runs, that a signature verifies.

mod both_ways;
mod buildah;
mod containerd;
mod containerd_2;
mod containers;
mod cosign;
mod crane;
mod curl;
mod helm;
mod logins;
mod oras;
mod own_image;
mod podman;
mod python;
mod regctl;
mod seed_case;
mod skopeo;
