//! What people live through.

mod configuration;
mod limits;
mod permission;
mod ranges;
mod restarts;
mod uploads;
