//! What people live through.

mod configuration;
