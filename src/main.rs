//! Arguments in, one command run, error chain and exit code out.

use clap::Parser;
use wharf::commands;
use wharf::config::Config;

/// An image registry for the inside of a cluster.
#[derive(Parser)]
#[command(version)]
enum Command {
    /// Serve the OCI Distribution API.
    Serve,
}

fn main() -> anyhow::Result<()> {
    let Command::Serve = Command::parse();
    let config = Config::default();
    wharf::logging::init(&config.log);
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(commands::serve::serve(config))
}
