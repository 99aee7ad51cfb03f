//! What the binary does, a file a command.

pub mod serve;
