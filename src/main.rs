//! Arguments in, one command run, error chain and exit code out.

use std::io;
use std::process::ExitCode;

use clap::Parser;
use wharf::commands::{self, Arguments, Command, ConfigCommand};
use wharf::traces::Traces;

/// How many threads wait for disks, and hash, at once. What is more waits for its turn: a disk is not faster for being asked
/// by more of them, and each takes memory.
const BLOCKING_THREADS: usize = 64;

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read the output has read enough, as `head` does.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Serve(arguments) => {
            let loaded = commands::configuration(arguments.path())?;
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .enable_all()
                .max_blocking_threads(BLOCKING_THREADS)
                .build()?;
            let traces = Traces::start(loaded.config.traces.as_ref(), runtime.handle())?;
            wharf::logging::init(&loaded.config.log, traces.as_ref());
            for warning in &loaded.warnings {
                tracing::warn!("{warning}");
            }
            let served = runtime.block_on(commands::serve::serve(loaded.config));
            if let Some(traces) = traces {
                traces.finish();
            }
            served
        }
        Command::Config(ConfigCommand::Check { file }) => {
            Ok(commands::config::check(&commands::configuration(Some(file))?)?)
        }
        Command::Config(ConfigCommand::Show(arguments)) => {
            Ok(commands::config::show(&commands::configuration(arguments.path())?)?)
        }
        Command::Config(ConfigCommand::Keys) => Ok(commands::config::keys()?),
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
