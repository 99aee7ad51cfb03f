//! The end-to-end tests: the real server, and the people and programs that talk to it.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod api;
mod authorization;
mod clients;
mod conformance;
mod documentation;
mod faults;
mod harness;
mod kubernetes;
mod server;
mod stories;
