//! What people live through.

mod configuration;
mod ranges;
mod restarts;
mod uploads;
