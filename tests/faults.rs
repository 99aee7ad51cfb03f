//! What must hold when things break: processes killed, disks full, clients gone.

mod injected;
mod killed;
mod refused;
mod synced;
