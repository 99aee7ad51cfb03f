//! Arguments in, one command run, error chain and exit code out.

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use wharf::commands::{self, Arguments, AuthCommand, Command, ConfigCommand};
use wharf::traces::Traces;

/// How long a thread that waits for a disk may take to come back when all is done: if the disk hangs it does not.
const LAST_WAIT: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let command = Arguments::parse().command;
    // To a question, 1 is an answer: no.
    let failure = if matches!(command, Command::Auth(_)) { ExitCode::from(2) } else { ExitCode::FAILURE };
    match run(command) {
        Ok(code) => code,
        // Whoever read the output has read enough, as `head` does.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            failure
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve(arguments) => {
            let loaded = commands::configuration(arguments.path())?;
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            let traces = Traces::start(loaded.config.traces.as_ref(), runtime.handle())?;
            wharf::logging::init(&loaded.config.log, traces.as_ref())?;
            for warning in &loaded.warnings {
                tracing::warn!("{warning}");
            }
            let served = runtime.block_on(commands::serve::serve(loaded.config));
            if let Some(traces) = traces {
                traces.finish();
            }
            runtime.shutdown_timeout(LAST_WAIT);
            wharf::logging::flush();
            served?;
        }
        Command::Config(ConfigCommand::Check(arguments)) => {
            commands::config::check(&commands::configuration(arguments.path())?)?;
        }
        Command::Config(ConfigCommand::Show(arguments)) => {
            commands::config::show(&commands::configuration(arguments.path())?)?;
        }
        Command::Config(ConfigCommand::Keys) => commands::config::keys()?,
        Command::Auth(AuthCommand::CanI(question)) => {
            let loaded = commands::configuration(question.configuration())?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            return runtime.block_on(commands::auth::can_i(question, &loaded.config));
        }
        Command::CredentialProvider => commands::credential_provider::answer()?,
    }
    Ok(ExitCode::SUCCESS)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
