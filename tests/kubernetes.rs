//! Beside a real Kubernetes cluster.

mod asking;
mod control_plane;
mod decisions;
mod node;
mod outage;
mod permission;
mod reviews;
mod revocation;
mod rotation;
mod scale;
