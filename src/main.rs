//! Arguments in, one command run, error chain and exit code out.

fn main() {}
