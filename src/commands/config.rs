//! `wharf config`: what a configuration says, and what can be said in one.

use std::io::{self, Write};

use crate::config::{self, Loaded, Setting};

/// Prints what was warned of, and that nothing is wrong: what is wrong has ended the program before.
///
/// # Errors
/// When nobody reads the output.
pub fn check(loaded: &Loaded) -> io::Result<()> {
    let mut output = io::stdout().lock();
    for warning in &loaded.warnings {
        writeln!(output, "warning: {warning}")?;
    }
    writeln!(output, "the configuration is good")
}

/// Prints every value that holds, with where it came from; secrets stay hidden.
///
/// # Errors
/// When nobody reads the output.
pub fn show(loaded: &Loaded) -> io::Result<()> {
    let lines: Vec<(String, &Setting)> = loaded
        .settings
        .iter()
        .map(|setting| (format!("{}: {}", setting.key, setting.value), setting))
        .collect();
    // One long value does not push all origins off the screen.
    const WIDEST: usize = 56;
    let width = lines.iter().map(|(line, _)| line.chars().count()).filter(|width| *width <= WIDEST).max();
    let width = width.unwrap_or_default();
    let mut output = io::stdout().lock();
    for (line, setting) in &lines {
        writeln!(output, "{line:width$}  # {}", setting.origin)?;
    }
    Ok(())
}

/// Prints every key there is, as `docs/configuration.md` lists them.
///
/// # Errors
/// When nobody reads the output.
pub fn keys() -> io::Result<()> {
    let mut output = io::stdout().lock();
    for key in config::keys() {
        writeln!(output, "{key}")?;
    }
    Ok(())
}
