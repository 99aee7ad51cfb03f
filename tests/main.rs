//! The end-to-end tests: the real server, and the people and programs that talk to it.

mod harness;
mod stories;
