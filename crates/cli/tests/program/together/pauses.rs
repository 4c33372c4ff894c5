//! How long a text stands still when a server is lost in the middle of it.

use std::time::Duration;

use crate::harness::{arg, small};

use super::{House, Server, blocks};

/// How long a server may be silent before another is asked.
const SILENCE: Duration = Duration::from_secs(2);

/// What finding another, and bringing it to the present, may take besides, on a machine that has else to do.
const MARGIN: Duration = Duration::from_millis(1500);

/// How often it is tried: what else a machine does may hold a text up, but not each time.
const TRIES: usize = 12;

#[test]
fn a_lost_server_is_noticed_in_two_seconds() {
    let (house, model) = (House::new(), small());
    let count = house.block_count(&model);
    let how = ["Once upon a time", "--max-tokens", "200", "--threads", "1"];
    let alone = house.prints(&[&["run", arg(&model)], &how[..]].concat());
    let first = house.join(&[arg(&model), "--blocks", &blocks((0, count / 2))]);
    let join = |cut| house.join(&[&first.invite, "--model", arg(&model), "--blocks", &blocks(cut)]);
    let args = [&["run", &*first.invite], &how[..]].concat();
    // Either of two has the rest.
    let mut rest = [(); 2].map(|()| join((count / 2, count)));
    // Which of them a text goes through is seen by its pause, if at all: so each is lost several times.
    let mut lose = |what: &str, disturb: &dyn Fn(&mut Server), after: &dyn Fn(&mut Server), shortest: Duration| {
        let (mut good, mut seen) = (Vec::new(), Vec::new());
        for turn in 0..TRIES {
            let victim = &mut rest[turn % 2];
            let pause = house.disturbed(&args, &alone, || disturb(victim));
            after(victim);
            seen.push(pause);
            if pause >= shortest && pause < SILENCE + MARGIN {
                good.push(pause);
            }
            if good.len() == 2 {
                println!("{what}: {good:?}");
                return;
            }
        }
        panic!("{what}: {seen:?}");
    };
    lose("frozen", &|server| server.freeze(), &|server| server.thaw(), SILENCE / 2);
    let again = |server: &mut Server| *server = join((count / 2, count));
    lose("killed", &|server| server.process.kill().unwrap(), &again, Duration::ZERO);
}
