//! What must hold when things break: processes killed, disks full, clients gone.

mod injected;
mod killed;
mod refused;
mod refused_bodies;
mod synced;
