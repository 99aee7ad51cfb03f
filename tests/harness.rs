//! What the stories stand on: a registry of their own, people who use it, and the programs that a machine may lack.

pub(crate) mod authority;
pub(crate) mod cluster;
pub(crate) mod containerd;
pub(crate) mod image;
pub(crate) mod network;
pub(crate) mod node;
pub(crate) mod paper_cluster;
pub(crate) mod process;
pub(crate) mod registry;
pub(crate) mod scratch;
pub(crate) mod secrets;
pub(crate) mod tool;
pub(crate) mod user;
pub(crate) mod wharf;
pub(crate) mod wire;
pub(crate) mod workstation;

use std::time::Duration;

use tokio::time::{sleep, timeout};

pub(crate) use authority::Authority;
pub(crate) use cluster::Cluster;
pub(crate) use image::{Image, Layer};
pub(crate) use network::Network;
pub(crate) use node::Node;
pub(crate) use paper_cluster::PaperCluster;
pub(crate) use registry::TestRegistry;
pub(crate) use user::User;
pub(crate) use workstation::Workstation;

/// Asks again and again until it is so, for longer than anything here takes: a silent API server is noticed after 70 s.
pub(crate) async fn until(is_so: impl AsyncFn() -> bool) {
    within(Duration::from_secs(120), is_so).await;
}

/// The same where it is promised to be so at once: for as long as a busy machine may take over that, and not for as long as what is
/// looked at again now and then.
pub(crate) async fn soon(is_so: impl AsyncFn() -> bool) {
    within(Duration::from_secs(15), is_so).await;
}

async fn within(limit: Duration, is_so: impl AsyncFn() -> bool) {
    let asking = async {
        while !is_so().await {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(limit, asking).await.unwrap_or_else(|_| panic!("it is not so within {limit:?}"));
}

/// 1,048,576 bytes.
pub(crate) const MIB: usize = 1 << 20;
