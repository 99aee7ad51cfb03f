//! What people live through.

mod configuration;
mod restarts;
mod uploads;
