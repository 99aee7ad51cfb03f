//! What the binary does, a file a command, and how each is called.

pub mod auth;
pub mod config;
pub mod credential_provider;
pub mod serve;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::{Loaded, Problems, load};

/// An image registry for the inside of a cluster.
///
/// `wharf serve` needs no configuration: it keeps images in the folder `data` and listens on 127.0.0.1:5000.
/// It also takes the configuration files of CNCF distribution, and its REGISTRY_* environment variables.
#[derive(Debug, Parser)]
#[command(name = "wharf", version, arg_required_else_help = true)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve images until SIGTERM or Ctrl-C.
    ///
    /// Without a file it keeps images in the folder `data`, listens on 127.0.0.1:5000 and lets everybody on this machine
    /// push, pull and delete. Where others can connect, it must be told who may come in: `auth: none` if that is everybody.
    /// Environment variables override single values, as in REGISTRY_HTTP_ADDR=:5000 and REGISTRY_AUTH=none.
    Serve(File),
    /// Look at a configuration without serving.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Find out who may do what.
    #[command(subcommand)]
    Auth(AuthCommand),
    /// Answer a kubelet that asks how to log in at the registry.
    ///
    /// A kubelet runs this as an image credential provider: it reads a CredentialProviderRequest on standard input and
    /// writes the response, in which the token of the pod's service account is the password for the image's registry.
    /// deploy/kubelet/credential-provider.yaml tells a kubelet to, deploy/rbac/credential-provider.yaml permits it.
    CredentialProvider,
}

/// Finds out who may do what.
#[derive(Debug, Subcommand)]
pub enum AuthCommand {
    /// Tell whether somebody may pull, push, delete or list, and why.
    ///
    /// It decides as `wharf serve` would with the same configuration, and names the bindings that count. If the answer is
    /// no, it tells what is missing and how to grant it. The exit code is 0 for yes, 1 for no, and 2 if there is no answer.
    #[command(name = "can-i", after_help = auth::EXAMPLES)]
    CanI(auth::Question),
}

/// Looks at a configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Tell all that is wrong with a configuration file, or that it is good.
    ///
    /// The environment counts as it would for `wharf serve`. What is wrong ends with exit code 1; warnings do not. Files that it
    /// names, such as certificates, are opened when the server starts, and not here.
    Check(File),
    /// Print every value that holds, and where it came from; secrets stay hidden.
    Show(File),
    /// Print every key that a configuration file may have, with its default and what it does.
    Keys,
}

/// The configuration file, if there is one.
#[derive(Args, Debug)]
pub struct File {
    /// The configuration file, YAML; without one, the defaults and the environment.
    #[arg(env = "REGISTRY_CONFIGURATION_PATH")]
    file: Option<OsString>,
}

impl File {
    /// Tells which file was named. An empty name, which a variable may have, is none, as in distribution.
    pub fn path(self) -> Option<PathBuf> {
        self.file.filter(|name| !name.is_empty()).map(PathBuf::from)
    }
}

/// Reads a configuration file, if there is one, and the environment of this process.
///
/// # Errors
/// All that is wrong with them, at once.
pub fn configuration(file: Option<PathBuf>) -> Result<Loaded, Problems> {
    // A variable that is no text is none of ours.
    let environment: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    load(file.as_deref(), &environment)
}
