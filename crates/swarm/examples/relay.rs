//! A slow link on one machine: a port on loopback that leads to another, with so much delay and capacity. Says where it
//! listens, then reads where it is to lead from its standard input, as `127.0.0.1:31330`, and runs until that ends.
//!
//!     cargo run --release -p bouquet-swarm --example relay -- MILLISECONDS-ONE-WAY [MBIT-PER-SECOND]

#[path = "../tests/relay/mod.rs"]
mod relay;

use std::error::Error;
use std::time::Duration;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let milliseconds: f64 = arguments.next().ok_or("how many milliseconds does a byte travel?")?.parse()?;
    let megabits: Option<u64> = arguments.next().map(|text| text.parse()).transpose()?;
    let link = relay::Link {
        delay: Duration::from_secs_f64(milliseconds / 1000.0),
        bytes_per_second: megabits.map(|megabits| megabits * 125_000),
        lost_per_mille: 0,
    };
    let relay = relay::Relay::to_nowhere(link);
    println!("{}", relay.address());
    for line in std::io::stdin().lines() {
        relay.lead_to(line?.trim().parse()?);
    }
    Ok(())
}
