//! Servers that are killed, frozen and cut off at random moments while clients generate, embed and train: no token is lost,
//! and no bit of what comes out is another.
//!
//! `BOUQUET_FAULTS` is how many servers are killed or frozen (links are cut besides), `BOUQUET_SEED` which, when, and for
//! how long; how they fall upon the work of a machine, no seed can tell.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::finetune::{adapter, losses, pairs};
use crate::harness::{arg, small};

use super::relay::{Link, Relay};
use super::{House, Server, blocks, ended};

/// The usual number of kills and freezes.
const FAULTS: usize = 20;

/// How long clients wait for blocks, in seconds: on a machine that has much else to do, who takes a dead one's place is
/// long in coming.
const WAIT: &str = "120";

/// Servers that may be away at a time.
const AWAY: usize = 2;

/// A number of the environment.
fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// Steele, Lea and Flood's SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.next() % (to - from))
    }
}

/// A place in the swarm: some blocks behind a port that stays, whoever serves them.
struct Post {
    blocks: (usize, usize),
    relay: Relay,
    /// The key of whoever is there; without one it is somebody else each time.
    identity: Option<PathBuf>,
    server: Mutex<Option<Server>>,
}

/// What happens to a server.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// `kill -9`; it is back as soon as it can be.
    Kill,
    /// It stands still for so long.
    Freeze(Duration),
    /// Nobody gets through to it for so long: connections break.
    Cut(Duration),
    /// The same, and nobody is told.
    Silence(Duration),
}

impl Fault {
    fn random(random: &mut Random) -> Fault {
        match random.below(10) {
            0..4 => Fault::Kill,
            4..8 => Fault::Freeze(random.millis(50, 5000)),
            8 => Fault::Cut(random.millis(10, 3000)),
            _ => Fault::Silence(random.millis(10, 4000)),
        }
    }

    /// Whether it is one of those that are counted.
    fn is_of_a_process(self) -> bool {
        matches!(self, Fault::Kill | Fault::Freeze(_))
    }
}

impl Post {
    fn new(blocks: (usize, usize), identity: Option<PathBuf>) -> Post {
        Post { blocks, relay: Relay::to_nowhere(Link::default()), identity, server: Mutex::new(None) }
    }

    /// Somebody comes to serve.
    fn fill(&self, house: &House, args: &[&str]) {
        let blocks = blocks(self.blocks);
        let identity: Vec<&str> = self.identity.iter().flat_map(|path| ["--identity", arg(path)]).collect();
        let args = [args, &["--blocks", &blocks], &identity].concat();
        *self.server.lock().unwrap() = Some(house.join_behind(&self.relay, &args));
    }

    /// Lets something happen to it, until it is over.
    fn suffer(&self, fault: Fault, house: &House, args: &[&str]) {
        match fault {
            Fault::Kill => {
                drop(self.server.lock().unwrap().take());
                self.fill(house, args);
            }
            Fault::Freeze(time) => {
                let server = self.server.lock().unwrap();
                let server = server.as_ref().unwrap();
                server.freeze();
                std::thread::sleep(time);
                server.thaw();
            }
            Fault::Cut(time) => {
                self.relay.cut();
                std::thread::sleep(time);
                self.relay.heal();
            }
            Fault::Silence(time) => {
                self.relay.freeze();
                std::thread::sleep(time);
                self.relay.heal();
            }
        }
    }
}

#[test]
fn no_token_is_lost_whoever_is_killed_frozen_or_cut_off() {
    let faults = from_environment("BOUQUET_FAULTS").map_or(FAULTS, |faults| faults as usize);
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let seed = from_environment("BOUQUET_SEED").unwrap_or_else(clock);
    println!("BOUQUET_SEED={seed} BOUQUET_FAULTS={faults}");
    let house = House::new();
    let model = small();
    let count = house.block_count(&model);
    let (third, two_thirds) = (count / 3, 2 * count / 3);
    // Everything is there three times, with other borders. Those that an invite names stay who they are.
    let cuts = [(0, third), (third, two_thirds), (two_thirds, count), (0, count / 2), (count / 2, count)];
    let cuts = [&cuts[..], &[(0, two_thirds - 1), (two_thirds - 1, count)]].concat();
    let key = |place: usize| (place < 5).then(|| house.path(&format!("key-{place}")));
    let posts: Vec<Post> = cuts.iter().enumerate().map(|(place, cut)| Post::new(*cut, key(place))).collect();
    // In the encoding that training uses.
    posts[0].fill(&house, &[arg(&model), "--encoding", "int8"]);
    let invite_of = |place: usize| posts[place].server.lock().unwrap().as_ref().unwrap().invite.clone();
    for place in 1..posts.len() {
        posts[place].fill(&house, &[&invite_of(place.min(3) - 1), "--model", arg(&model)]);
    }
    // Three are named in it, and two may be away.
    let invite = invite_of(2);
    let args = ["--model", arg(&model)];
    let args = [&[&*invite], &args[..]].concat();

    let long = "The river was wide and the engine of the small boat was old. ".repeat(20);
    let greedy = ["Once upon a time", "--max-tokens", "150", "--threads", "1"];
    let sampled = ["The teacher said", "--temperature", "0.8", "--seed", "7", "--max-tokens", "150", "--threads", "1"];
    let prompted = [&*long, "--max-tokens", "40", "--threads", "1"];
    let clients: [&[&str]; 3] = [&greedy, &sampled, &prompted];
    let (over, runs, slowest) = (AtomicBool::new(false), AtomicUsize::new(0), Mutex::new(Duration::ZERO));
    let done = |start: Instant| {
        runs.fetch_add(1, Ordering::Relaxed);
        let mut slowest = slowest.lock().unwrap();
        *slowest = start.elapsed().max(*slowest);
    };
    // What a command prints through the swarm, which has to go well.
    let through = |what: &[&str]| {
        let (args, start) = ([what, &["--wait", WAIT]].concat(), Instant::now());
        let running = house.command(&args).stderr(Stdio::piped()).spawn().unwrap();
        let output = ended(running, &args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{what:?}: {said}");
        done(start);
        String::from_utf8(output.stdout).unwrap()
    };
    let generate = |how: &[&str]| {
        let alone = house.prints(&[&["run", arg(&model)], how, &["--encoding", "int8"]].concat());
        loop {
            assert_eq!(through(&[&["run", &invite], how].concat()), alone, "{how:?}");
            if over.load(Ordering::Relaxed) {
                return;
            }
        }
    };
    let data = house.path("texts.txt");
    std::fs::write(&data, "The river is wide.\nAn engine runs.\nThe teacher reads a letter.\n".repeat(8)).unwrap();
    let embed = || {
        let vectors = |model: &str, name: &str, run: &dyn Fn(&[&str])| {
            let path = house.path(name);
            run(&["embed", model, arg(&data), "-o", arg(&path)]);
            let bytes = std::fs::read(&path).unwrap();
            std::fs::remove_file(path).unwrap();
            bytes
        };
        let alone = vectors(arg(&model), "alone.npy", &|args| {
            house.prints(&[args, &["--encoding", "int8"]].concat());
        });
        while !over.load(Ordering::Relaxed) {
            assert!(vectors(&invite, "together.npy", &|args| drop(through(args))) == alone, "vectors are others");
        }
    };
    let room = tempfile::tempdir().unwrap();
    let examples = pairs(&room, 60);
    let train = || {
        let trained = |model: &str, name: &str, run: &dyn Fn(&[&str])| {
            let folder = house.path(name);
            let named = ["finetune", model, "-o", arg(&folder), "--objective", "contrastive", "--data", arg(&examples)];
            let how = ["--batch-size", "6", "--leaf", "2", "--steps", "4", "--dropout", "0.1", "--threads", "1"];
            run(&[&named[..], &how].concat());
            let made = (losses(&folder), adapter(&folder));
            std::fs::remove_dir_all(folder).unwrap();
            made
        };
        let alone = trained(arg(&model), "trained-alone", &|args| {
            house.prints(&[args, &["--encoding", "int8"]].concat());
        });
        while !over.load(Ordering::Relaxed) {
            assert!(trained(&invite, "trained", &|args| drop(through(args))) == alone, "an adapter is another");
        }
    };
    let cause = || {
        let mut random = Random(seed);
        let away: Vec<AtomicBool> = posts.iter().map(|_| AtomicBool::new(false)).collect();
        let mut counted = 0;
        std::thread::scope(|scope| {
            while counted < faults && !over.load(Ordering::Relaxed) {
                std::thread::sleep(random.millis(20, 1200));
                let (place, fault) = (random.below(posts.len()), Fault::random(&mut random));
                let is_away = |place: &AtomicBool| place.load(Ordering::Relaxed);
                while is_away(&away[place]) || away.iter().filter(|place| is_away(place)).count() >= AWAY {
                    std::thread::sleep(Duration::from_millis(10));
                }
                counted += usize::from(fault.is_of_a_process());
                println!("{counted} of {faults}: {fault:?} for blocks {:?}", posts[place].blocks);
                away[place].store(true, Ordering::Relaxed);
                let (post, away, house, args) = (&posts[place], &away[place], &house, &args);
                scope.spawn(move || {
                    post.suffer(fault, house, args);
                    away.store(false, Ordering::Relaxed);
                });
            }
        });
    };
    let start = Instant::now();
    std::thread::scope(|scope| {
        let generating = clients.map(|how| {
            let (generate, over) = (&generate, &over);
            scope.spawn(move || {
                let _over = Sets(over);
                generate(how);
            })
        });
        let others: [&(dyn Fn() + Sync); 2] = [&embed, &train];
        let others = others.map(|work| {
            let over = &over;
            scope.spawn(move || {
                let _over = Sets(over);
                work();
            })
        });
        let causing = Sets(&over);
        cause();
        drop(causing);
        others.into_iter().for_each(|client| client.join().unwrap());
        generating.into_iter().for_each(|client| client.join().unwrap());
    });
    let (runs, slowest) = (runs.into_inner(), slowest.into_inner().unwrap());
    println!("{faults} kills and freezes in {:?}; {runs} runs of clients, the slowest in {slowest:?}", start.elapsed());
}

/// Sets a flag when it is dropped, so that nobody goes on when one has failed.
struct Sets<'a>(&'a AtomicBool);

impl Drop for Sets<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
