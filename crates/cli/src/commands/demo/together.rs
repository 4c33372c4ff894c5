//! Three servers on this machine, of which one is killed in mid-sentence: the text comes out the same.

use std::io::{BufRead as _, BufReader, Read as _};
use std::ops::Range;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};
use bouquet_model::Encoding;
use serde_json::{Value, json};

use crate::errors::wrong;
use crate::output;

/// What is gone on from, and how far.
const PROMPT: &str = "Once upon a time there was a";
const MAX_TOKENS: &str = "64";

/// Bytes of text after which a server is killed.
const KILLED_AFTER: usize = 60;

/// What came of it.
pub(super) struct Together {
    /// The blocks of each server; the last is killed.
    servers: Vec<Range<usize>>,
    text: String,
    /// Bytes of the text that were there when the server was killed.
    killed_after: usize,
    same: bool,
}

/// A process that ends when this does.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Serves the model of a folder by three processes, and kills one of them.
pub(super) fn together(model: &Path, encoding: Encoding, blocks: usize) -> Result<Together> {
    let room = tempfile::tempdir()?;
    let program = std::env::current_exe().context("finding this program")?;
    let command = |args: &[&str]| {
        let mut command = Command::new(&program);
        // What they keep is theirs, and goes with them.
        command.args(args).envs(["XDG_CACHE_HOME", "LOCALAPPDATA", "HOME"].map(|name| (name, room.path())));
        command.args(["--threads", "1"]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        command
    };
    let folder = model.to_str().context("a path that is text")?;
    let half = blocks.div_ceil(2);
    let servers = vec![0..half, half..blocks, 0..blocks];
    let join = |what: &[&str], range: &Range<usize>| -> Result<(Running, String)> {
        let range = format!("{}:{}", range.start, range.end);
        let flags = ["--blocks", &range, "--listen", "/ip4/127.0.0.1/tcp/0", "--json"];
        let mut process = Running(command(&[&["join"], what, &flags].concat()).spawn()?);
        let mut line = String::new();
        BufReader::new(process.0.stdout.take().expect("it is piped")).read_line(&mut line)?;
        let ready: Value = serde_json::from_str(&line).unwrap_or_default();
        let invite = ready["invite"].as_str().map(str::to_owned);
        let invite =
            invite.ok_or_else(|| wrong("a server on this machine did not start", "bouquet join MODEL says why"))?;
        Ok((process, invite))
    };
    let (first, invite) = join(&[folder, "--encoding", encoding.name()], &servers[0])?;
    let (second, _) = join(&[&invite, "--model", folder], &servers[1])?;
    let (last, _) = join(&[&invite, "--model", folder], &servers[2])?;
    let run = |model: &str| command(&["run", model, PROMPT, "--raw", "--max-tokens", MAX_TOKENS]).spawn();

    let mut alone = Running(run(folder)?);
    let mut expected = String::new();
    alone.0.stdout.take().expect("it is piped").read_to_string(&mut expected)?;

    let mut client = Running(run(&invite)?);
    let mut stdout = client.0.stdout.take().expect("it is piped");
    let (mut text, mut piece, mut killed, mut killed_after) = (Vec::new(), [0; 64], Some(last), 0);
    loop {
        let read = stdout.read(&mut piece)?;
        if read == 0 {
            break;
        }
        text.extend_from_slice(&piece[..read]);
        if text.len() >= KILLED_AFTER && killed.take().is_some() {
            killed_after = text.len();
        }
    }
    drop((first, second));
    let text = String::from_utf8_lossy(&text).trim_end().to_owned();
    let same = text == expected.trim_end() && !text.is_empty() && killed.is_none();
    Ok(Together { servers, text, killed_after, same })
}

impl Together {
    pub(super) fn told(&self) -> String {
        let style = output::stdout_style();
        let blocks: Vec<String> = self.servers.iter().map(|range| format!("{}:{}", range.start, range.end)).collect();
        let cut = self.text.floor_char_boundary(self.killed_after.min(self.text.len()));
        let (before, after) = self.text.split_at(cut);
        let end = if self.same { "the same text as alone" } else { "ANOTHER TEXT than alone" };
        format!(
            "\nTogether: three servers on this machine with blocks {}; the last is killed in mid-sentence.\n\
             {}{PROMPT}{}{before}{}[killed]{}{after}\n{}{end}{}",
            blocks.join(", "),
            style.strong,
            style.plain,
            style.quiet,
            style.plain,
            style.quiet,
            style.plain
        )
    }

    pub(super) fn json(&self) -> Value {
        let blocks: Vec<_> = self.servers.iter().map(|range| [range.start, range.end]).collect();
        json!({ "servers": blocks, "text": self.text, "killed_after_bytes": self.killed_after, "same": self.same })
    }

    /// Fails where the text is another one.
    pub(super) fn check(&self) -> Result<()> {
        match self.same {
            true => Ok(()),
            false => Err(wrong(
                "a text that machines made together is not that of one machine",
                "report this, with the output of bouquet doctor",
            )),
        }
    }
}
