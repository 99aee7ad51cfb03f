//! Uploads under way: how their URLs are made.

pub mod state;
