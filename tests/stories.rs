//! What people live through.

mod audit;
mod can_i;
mod certificates;
mod configuration;
mod credential_provider;
mod health;
mod issuers;
mod limits;
mod logs;
mod metrics;
mod permission;
mod proxies;
mod ranges;
mod replicas;
mod restarts;
mod terminal;
mod traces;
mod uploads;
