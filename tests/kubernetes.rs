//! Beside a real Kubernetes cluster.

mod control_plane;
mod decisions;
mod outage;
mod permission;
