//! A conversation in a terminal, as somebody has it who types. Unix alone: there is no console of Windows that a test
//! could hold the other end of without code of its own.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use crate::harness::*;

/// How long anything may take that is waited for, on a machine that has much else to do.
const DEADLINE: Duration = Duration::from_secs(60);

const TEMPLATE: &str = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}";

/// The other end of a terminal, with the program in it.
struct Terminal {
    child: std::process::Child,
    pty: std::sync::Arc<pty_process::blocking::Pty>,
    pieces: Receiver<Vec<u8>>,
    /// What was shown since something was last waited for.
    shown: String,
}

/// A model with a chat template, and a place for what is kept.
fn model(from: &Path) -> tempfile::TempDir {
    let room = tempfile::tempdir().unwrap();
    let folder = room.path().join("my-model");
    std::fs::create_dir(&folder).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, folder.join(path.file_name().unwrap())).unwrap();
    }
    std::fs::write(folder.join("chat_template.jinja"), TEMPLATE).unwrap();
    room
}

impl Terminal {
    fn open(room: &Path, more: &[&str]) -> Terminal {
        let (pty, pts) = pty_process::blocking::open().unwrap();
        pty.resize(pty_process::Size::new(24, 80)).unwrap();
        let model = room.join("my-model");
        let command = pty_process::blocking::Command::new(env!("CARGO_BIN_EXE_bouquet"))
            .args(["run", arg(&model), "--ignore-eos", "--threads", "1"])
            .args(more)
            .current_dir(room)
            .env("TERM", "xterm")
            .env("XDG_DATA_HOME", room.join("data"))
            .env("HF_HUB_OFFLINE", "1");
        let child = command.spawn(pts).unwrap();
        let pty = std::sync::Arc::new(pty);
        let (sender, pieces) = channel();
        let reader = pty.clone();
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            // The terminal of a program that has left cannot be read.
            while let Ok(read @ 1..) = (&*reader).read(&mut piece) {
                if sender.send(piece[..read].to_vec()).is_err() {
                    return;
                }
            }
        });
        let mut terminal = Terminal { child, pty, pieces, shown: String::new() };
        terminal.shows("/bye leaves.");
        terminal.asks();
        terminal
    }

    fn types(&mut self, text: &str) {
        (&*self.pty).write_all(text.as_bytes()).unwrap();
    }

    /// Waits until something is shown; returns what was until then.
    #[track_caller]
    fn shows(&mut self, what: &str) -> String {
        let start = Instant::now();
        loop {
            if let Some(at) = self.shown.find(what) {
                let rest = self.shown.split_off(at + what.len());
                return std::mem::replace(&mut self.shown, rest);
            }
            let left = DEADLINE.saturating_sub(start.elapsed());
            match self.pieces.recv_timeout(left) {
                Ok(piece) => self.shown.push_str(&String::from_utf8_lossy(&piece)),
                Err(_) => panic!("{what:?} is not shown, but: {:?}", self.shown),
            }
        }
    }

    /// Waits until a line is asked for: from then on a terminal says what is pasted.
    #[track_caller]
    fn asks(&mut self) -> String {
        self.shows("\u{1b}[?2004h")
    }

    /// Types a line and waits for what becomes of it.
    #[track_caller]
    fn says(&mut self, line: &str) -> String {
        self.types(&format!("{line}\r"));
        self.asks()
    }

    /// Types a line, and holds that something comes of it.
    #[track_caller]
    fn hears(&mut self, line: &str, what: &str) {
        let said = self.says(line);
        assert!(said.contains(what), "{line:?} gives no {what:?}, but {said:?}");
    }

    /// Waits for the end, and what the program ends with.
    fn ends(mut self) -> Option<i32> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(start.elapsed() < DEADLINE, "it does not end");
            std::thread::yield_now();
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn messages(file: PathBuf) -> Vec<(String, String)> {
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    json.as_array().unwrap().iter().map(|message| (text(&message["role"]), text(&message["content"]))).collect()
}

#[test]
fn a_conversation_is_typed_kept_and_left() {
    let room = model(&tiny("llama-tiny"));
    let mut terminal = Terminal::open(room.path(), &["--max-tokens", "6"]);
    terminal.hears("/help", "/system TEXT");
    terminal.hears("/nothing", "/nothing is not known; /help lists what is");
    terminal.hears("/system Be brief.", "told from now on");
    terminal.hears("/set temperature 0.5", "temperature 0.5");
    terminal.hears("/set temperature hot", "temperature cannot be hot");
    terminal.hears("/set colour red", "colour is no setting");
    terminal.says("Hello");
    terminal.types("\"\"\"two\rlines\"\"\"\r");
    terminal.asks();
    // As a terminal sends what is pasted.
    terminal.types("\u{1b}[200~pasted\nlines 好🌸\u{1b}[201~\r");
    terminal.asks();
    terminal.hears("/save talk.json", "7 messages written to talk.json");
    let kept = messages(room.path().join("talk.json"));
    let said: Vec<&str> = kept.iter().filter(|(role, _)| role == "user").map(|(_, text)| text.as_str()).collect();
    assert_eq!(said, ["Hello", "two\nlines", "pasted\nlines 好🌸"]);
    assert_eq!(kept[0], ("system".to_owned(), "Be brief.".to_owned()));

    terminal.hears("/reset", "forgotten");
    terminal.hears("/save after.json", "1 message written");
    terminal.hears("/load talk.json", "7 messages from talk.json");
    terminal.hears("/load nothing.json", "nothing.json");
    // Three lines up, before those of /load: what is saved now is what was loaded.
    terminal.types("\u{1b}[A\u{1b}[A\u{1b}[A\r");
    assert!(terminal.asks().contains("7 messages written to after.json"));
    terminal.types("\u{4}");
    assert_eq!(terminal.ends(), Some(0));
    let history = std::fs::read_to_string(room.path().join("data/bouquet/chat-history")).unwrap();
    assert!(history.contains("\nHello\n") && history.contains("two\\nlines"), "{history}");
}

#[test]
fn ctrl_c_stops_an_answer_and_not_the_program() {
    let room = model(&small());
    // Plain code, for an answer that takes long.
    let mut terminal = Terminal::open(room.path(), &["--isa", "scalar", "--max-tokens", "100000", "--no-history"]);
    terminal.types("Once upon a time\r");
    // The line has ended, and the first words of the answer are there.
    terminal.shows("\u{1b}[?2004l");
    terminal.shows(" ");
    let start = Instant::now();
    terminal.types("\u{3}");
    terminal.asks();
    assert!(start.elapsed() < DEADLINE);
    terminal.says("/save talk.json");
    let kept = messages(room.path().join("talk.json"));
    assert_eq!(kept.len(), 2, "as far as it went, it is an answer");
    assert!(kept[1].1.split_whitespace().count() < 1000, "{} words", kept[1].1.split_whitespace().count());
    // On an empty line it says how to leave, and the second leaves.
    terminal.types("\u{3}");
    terminal.shows("Ctrl-C once more");
    terminal.asks();
    terminal.types("\u{3}");
    assert_eq!(terminal.ends(), Some(0));
    assert!(!room.path().join("data").exists(), "nothing is kept");
}

#[test]
fn a_context_that_is_full_forgets_and_says_so() {
    let room = model(&tiny("llama-tiny"));
    let mut terminal = Terminal::open(room.path(), &["--max-tokens", "8", "--ctx", "64"]);
    let mut forgot = false;
    for _ in 0..8 {
        forgot |= terminal.says("A B C D").contains("is full: the oldest");
    }
    assert!(forgot);
    terminal.hears(&"word ".repeat(200), "hint");
    assert!(!terminal.says("A").contains("hint"));
    terminal.types("/bye\r");
    assert_eq!(terminal.ends(), Some(0));
}
