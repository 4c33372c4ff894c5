//! Clients that stand still for a while, and clients that are cut off: they go on where they were.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{arg, small};

use super::relay::{Link, Relay};
use super::{House, blocks};

/// Longer than any server is believed to be there that says nothing.
const STILL: Duration = Duration::from_secs(5);

#[test]
fn a_client_that_is_stopped_or_cut_off_goes_on_with_the_same_text() {
    let (house, model) = (House::new(), small());
    let count = house.block_count(&model);
    let how = ["Once upon a time", "--max-tokens", "200", "--threads", "1"];
    let alone = house.prints(&[&["run", arg(&model)], &how[..]].concat());
    // The client comes through the relays; so do servers to each other.
    let relays = [(); 2].map(|()| Relay::to_nowhere(Link::default()));
    let first = house.join_behind(&relays[0], &[arg(&model), "--blocks", &blocks((0, count / 2))]);
    let rest = [&first.invite, "--model", arg(&model), "--blocks", &blocks((count / 2, count))];
    let _second = house.join_behind(&relays[1], &rest);
    let args = [&["run", &*first.invite], &how[..]].concat();

    let pause = house.disturbed_process(&args, &alone, |client| {
        let client = Pid::from_raw(client as i32);
        kill(client, Signal::SIGSTOP).unwrap();
        std::thread::sleep(STILL);
        kill(client, Signal::SIGCONT).unwrap();
    });
    println!("stopped: a pause of {pause:?} besides");
    for (what, silent) in [("cut off", false), ("silent", true)] {
        let pause = house.disturbed(&args, &alone, || {
            relays.iter().for_each(|relay| if silent { relay.freeze() } else { relay.cut() });
            std::thread::sleep(STILL);
            relays.iter().for_each(Relay::heal);
        });
        println!("{what}: a pause of {pause:?} besides");
    }
}
