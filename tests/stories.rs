//! What people live through.

mod configuration;
mod limits;
mod logs;
mod metrics;
mod permission;
mod ranges;
mod restarts;
mod traces;
mod uploads;
