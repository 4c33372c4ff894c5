//! Machines that serve a model together: real processes on loopback, that are used while they are killed, frozen and cut
//! off.

#[cfg(unix)]
mod clients;
#[cfg(unix)]
mod faults;
#[cfg(unix)]
mod links;
#[cfg(unix)]
mod pauses;
mod refused;
#[path = "../../../../swarm/tests/relay/mod.rs"]
mod relay;
mod served;
mod training;
mod using;

use std::fs::File;
use std::io::{BufRead, BufReader, Read as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use self::relay::Relay;
use crate::harness::arg;

/// How long anything may take on a machine that has much else to do, before it counts as hanging.
const LONG: Duration = Duration::from_secs(180);

/// A folder for caches, and a way to run the program with it.
struct House {
    folder: tempfile::TempDir,
    servers: AtomicUsize,
}

/// A server, killed when it is dropped.
struct Server {
    process: Child,
    invite: String,
    ready: Value,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[cfg(unix)]
impl Server {
    /// Sends it a signal.
    fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.process.id() as i32), signal).unwrap();
    }

    fn freeze(&self) {
        self.signal(nix::sys::signal::Signal::SIGSTOP);
    }

    fn thaw(&self) {
        self.signal(nix::sys::signal::Signal::SIGCONT);
    }
}

impl House {
    fn new() -> House {
        House { folder: tempfile::tempdir().unwrap(), servers: AtomicUsize::new(0) }
    }

    /// A path in its folder.
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let (mut command, folder) = (Command::new(env!("CARGO_BIN_EXE_bouquet")), self.folder.path());
        command.args(args).env("XDG_CACHE_HOME", folder).env("LOCALAPPDATA", folder);
        command.env("HOME", folder).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        ended(self.command(args).spawn().unwrap(), args)
    }

    /// What a command prints that goes well.
    fn prints(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// A server that listens on loopback and serves.
    fn join(&self, args: &[&str]) -> Server {
        self.try_join(args).unwrap_or_else(|said| panic!("{args:?}: {said}"))
    }

    /// The same; what it says if it ends instead.
    fn try_join(&self, args: &[&str]) -> Result<Server, String> {
        let log = self.path(&format!("server-{}.log", self.servers.fetch_add(1, Ordering::Relaxed)));
        let flags = ["--listen", "/ip4/127.0.0.1/tcp/0", "--threads", "1", "--json"];
        let mut command = self.command(&[&["join"], args, &flags].concat());
        let mut process = command.stderr(File::create(&log).unwrap()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        if line.is_empty() {
            process.wait().unwrap();
            return Err(std::fs::read_to_string(log).unwrap());
        }
        let ready: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(ready["event"], "ready");
        Ok(Server { process, invite: ready["invite"].as_str().unwrap().to_owned(), ready })
    }

    /// A server that others reach through a relay.
    fn join_behind(&self, relay: &Relay, args: &[&str]) -> Server {
        let announced = format!("/ip4/127.0.0.1/tcp/{}", relay.address().port());
        let server = self.join(&[args, &["--announce", &announced]].concat());
        assert_eq!(server.ready["addresses"], serde_json::json!([announced]));
        relay.lead_to(server.listening());
        server
    }

    /// Generates, and does something once there is some text. Returns for how long the text stood still from then on.
    fn disturbed(&self, args: &[&str], expected: &str, disturb: impl FnOnce()) -> Duration {
        self.disturbed_process(args, expected, |_| disturb())
    }

    /// The same, of the process that generates.
    fn disturbed_process(&self, args: &[&str], expected: &str, disturb: impl FnOnce(u32)) -> Duration {
        let mut running = self.command(args).spawn().unwrap();
        let mut pipe = running.stdout.take().unwrap();
        let (start, mut text, mut bytes) = (Instant::now(), Vec::new(), [0; 4096]);
        let (mut disturb, mut last, mut pause) = (Some(disturb), Instant::now(), Duration::ZERO);
        loop {
            let count = pipe.read(&mut bytes).unwrap();
            if disturb.is_none() {
                pause = pause.max(last.elapsed());
            }
            if count == 0 {
                break;
            }
            text.extend_from_slice(&bytes[..count]);
            if text.len() > expected.len() / 4
                && let Some(disturb) = disturb.take()
            {
                disturb(running.id());
            }
            last = Instant::now();
            assert!(start.elapsed() < LONG, "{args:?} hangs");
        }
        let output = ended(running, args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(String::from_utf8(text).unwrap(), expected);
        pause
    }

    /// How many blocks a model has.
    fn block_count(&self, model: &Path) -> usize {
        let inspected: Value = serde_json::from_str(&self.prints(&["inspect", arg(model), "--json"])).unwrap();
        inspected["num_blocks"].as_u64().unwrap() as usize
    }
}

impl Server {
    /// Where it listens.
    fn listening(&self) -> SocketAddr {
        let address = self.ready["listening"][0].as_str().unwrap();
        let port = address.strip_prefix("/ip4/127.0.0.1/tcp/").unwrap().parse().unwrap();
        SocketAddr::from(([127, 0, 0, 1], port))
    }
}

/// What a process has said when it has ended, which it has to in time.
fn ended(process: Child, what: &[&str]) -> Output {
    let (id, start) = (process.id(), Instant::now());
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(process.wait_with_output().unwrap()));
    match receiver.recv_timeout(LONG) {
        Ok(output) => output,
        Err(_) => panic!("{what:?} hangs (process {id}, {:?})", start.elapsed()),
    }
}

/// `3:9`, as `--blocks` has it.
fn blocks((from, to): (usize, usize)) -> String {
    format!("{from}:{to}")
}
