//! What people live through.

mod configuration;
mod limits;
mod metrics;
mod ranges;
mod restarts;
mod uploads;
