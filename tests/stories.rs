//! What people live through.

mod configuration;
mod limits;
mod ranges;
mod restarts;
mod uploads;
