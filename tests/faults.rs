//! What must hold when things break: processes killed, disks full, clients gone.

mod injected;
mod killed;
mod refused;
mod refused_bodies;
mod synced;

use std::path::PathBuf;

use crate::harness::tool;

/// The program that looks into a server's calls. Many machines let only root do that to what is running already.
#[track_caller]
fn strace() -> Option<PathBuf> {
    if tool::root() { tool::debian("strace") } else { None }
}
