//! What people live through.

mod can_i;
mod configuration;
mod credential_provider;
mod limits;
mod logs;
mod metrics;
mod permission;
mod ranges;
mod restarts;
mod traces;
mod uploads;
