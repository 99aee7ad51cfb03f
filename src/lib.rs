//! Wharf: an image registry for the inside of a cluster.

pub mod access;
pub mod api;
pub mod audit;
pub mod background;
pub mod commands;
pub mod config;
pub mod health;
pub mod logging;
pub mod login;
pub mod logins;
pub mod metrics;
pub mod route;
pub mod server;
pub mod traces;
