//! Wharf: an image registry for the inside of a cluster.

pub mod api;
pub mod config;
