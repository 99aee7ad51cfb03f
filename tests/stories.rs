//! What people live through.

mod audit;
mod certificates;
mod configuration;
mod limits;
mod logs;
mod metrics;
mod permission;
mod proxies;
mod ranges;
mod restarts;
mod traces;
mod uploads;
