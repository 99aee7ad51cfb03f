//! What people live through, told without the programs they use.

mod configuration;
mod uploads;
