//! A swarm in one process: servers of fake blocks over a simulated network, with faults at random moments.

mod contract;
mod faults;
mod garbage;
mod prompts;
mod room;
mod slow;
mod together;
mod training;
mod turns;
mod world;
