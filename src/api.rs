//! The OCI Distribution API over HTTP: what a request means, and what an answer looks like.

pub mod blobs;
pub mod conditions;
pub mod endpoint;
pub mod error;
pub mod page;
pub mod query;
pub mod uploads;
