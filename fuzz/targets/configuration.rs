//! Any file, and any environment, is a configuration or a list of problems. The environment stands behind a NUL byte,
//! one variable a line.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf::config;

fuzz_target!(|text: &str| {
    let (file, environment) = text.split_once('\0').unwrap_or((text, ""));
    let environment = environment
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    match config::parse(Some(("config.yml", file)), &environment) {
        Ok(loaded) => {
            assert!(!loaded.config.http.listeners.is_empty());
            assert!(!loaded.settings.is_empty());
        }
        Err(problems) => {
            assert!(!problems.0.is_empty());
            assert!(problems.0.iter().all(|problem| !problem.what.is_empty()));
        }
    }
});
