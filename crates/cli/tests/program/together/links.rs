//! Links that are slow, and that break and heal: every server is reached through a relay.

use std::time::{Duration, Instant};

use crate::harness::{arg, small};

use super::relay::{Link, Relay};
use super::{House, Server, blocks};

/// Three servers and their spares, each behind a link of its own.
fn far_apart(house: &House, link: Link) -> Vec<(Relay, Server)> {
    let model = small();
    let count = house.block_count(&model);
    let cuts = [(0, count / 3), (count / 3, 2 * count / 3), (2 * count / 3, count), (0, count / 2), (count / 2, count)];
    let mut servers: Vec<(Relay, Server)> = Vec::new();
    for cut in cuts {
        let (relay, cut) = (Relay::to_nowhere(link), blocks(cut));
        let named = servers.first().map(|(_, founder)| founder.invite.clone());
        let what: Vec<&str> = match &named {
            Some(invite) => vec![invite, "--model", arg(&model)],
            None => vec![arg(&model)],
        };
        let server = house.join_behind(&relay, &[&what[..], &["--blocks", &cut]].concat());
        servers.push((relay, server));
    }
    servers
}

#[test]
fn a_text_is_the_same_over_slow_links_that_are_cut_in_the_middle_of_it() {
    let (house, model) = (House::new(), small());
    let prompt = "The river was wide and the engine of the small boat was old. ".repeat(12);
    let how = [&*prompt, "--max-tokens", "14", "--threads", "1"];
    let alone = house.prints(&[&["run", arg(&model)], &how[..]].concat());
    // Three of a hundred pieces are lost, and come a fifth of a second late.
    let lossy = Link { lost_per_mille: 30, ..Link::near() };
    for (what, link) in [("far", Link::far()), ("near", Link::near()), ("lossy", lossy)] {
        let servers = far_apart(&house, link);
        let args = [&["run", &*servers[0].1.invite], &how[..]].concat();
        let start = Instant::now();
        assert_eq!(house.prints(&args), alone, "{what}");
        println!("{what}: {:?} undisturbed", start.elapsed());
        // Everybody is cut off from everybody, then some from some.
        let all: Vec<&Relay> = servers.iter().map(|(relay, _)| relay).collect();
        for (victims, silent) in [(&all[..], false), (&all[1..2], false), (&all[..], true), (&all[3..], true)] {
            std::thread::scope(|scope| {
                let pause = house.disturbed(&args, &alone, || {
                    victims.iter().for_each(|relay| if silent { relay.freeze() } else { relay.cut() });
                    scope.spawn(move || {
                        std::thread::sleep(Duration::from_millis(1000));
                        victims.iter().for_each(|relay| relay.heal());
                    });
                });
                println!("{what}: {} of {} cut off, a pause of {pause:?}", victims.len(), all.len());
            });
        }
    }
}
