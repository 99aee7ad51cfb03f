//! What is written to standard error: for people on a terminal, one JSON object a line elsewhere.

use std::io::{self, IsTerminal};

use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{Log, LogFormat, LogLevel};

/// Sets up logging for the process, once.
pub fn init(log: &Log) {
    let level = match log.level {
        LogLevel::Error => Level::ERROR,
        LogLevel::Warn => Level::WARN,
        LogLevel::Info => Level::INFO,
        LogLevel::Debug => Level::DEBUG,
    };
    let mut targets = Targets::new().with_default(Level::WARN.min(level)).with_target("wharf", level);
    if log.access {
        targets = targets.with_target(crate::server::ACCESS_LOG, Level::INFO);
    }
    let text = match log.format {
        LogFormat::Auto => io::stderr().is_terminal(),
        LogFormat::Text => true,
        LogFormat::Json => false,
    };
    let registry = tracing_subscriber::registry().with(targets);
    let layer = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    if text {
        registry.with(layer.with_ansi(io::stderr().is_terminal())).init();
    } else {
        registry.with(layer.json().flatten_event(true)).init();
    }
}
