//! What must hold when things break: processes killed, disks full, clients gone.

mod killed;
mod refused;
