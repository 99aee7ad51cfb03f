//! What the stories stand on: a registry of their own, people who use it, and the programs that a machine may lack.

pub(crate) mod authority;
pub(crate) mod image;
pub(crate) mod paper_cluster;
pub(crate) mod process;
pub(crate) mod registry;
pub(crate) mod tool;
pub(crate) mod user;
pub(crate) mod wire;
pub(crate) mod workstation;

pub(crate) use authority::Authority;
pub(crate) use image::{Image, Layer};
pub(crate) use paper_cluster::PaperCluster;
pub(crate) use registry::TestRegistry;
pub(crate) use user::User;
pub(crate) use workstation::Workstation;

/// 1,048,576 bytes.
pub(crate) const MIB: usize = 1 << 20;
