//! From what was typed for a MODEL to a folder or a GGUF file: a local one as it is, one of the hub from the cache, and
//! fetched where the cache lacks it. What a command prints of a download, and what to try when it fails.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Result;
use bouquet_hub::{Event, Hub, HubError, Name, Plan, Settings};
use bouquet_model::is_gguf;
use bouquet_swarm::Invite;

use crate::errors::{asked_wrongly, wrong};
use crate::interrupt::LastWords;

use crate::output::{self, Progress};
use crate::swarm::{self, InviteArgs};

/// The folder of a model, or its GGUF file. One that the cache has is used as it is, and nobody is asked whether there is
/// a newer one.
pub(crate) fn folder(model: PathBuf) -> Result<PathBuf> {
    folder_or_ends(model, &InviteArgs::default())
}

/// The same where an invite may stand for the model: then what of it is needed beside the blocks, by these flags.
pub(crate) fn folder_or_ends(model: PathBuf, how: &InviteArgs) -> Result<PathBuf> {
    if let Some(invite) = model.to_str().filter(|text| Invite::is_meant(text)) {
        return swarm::ends(invite, how);
    }
    if how.model.is_some() {
        return Err(asked_wrongly("--model says where the model of an invite is", "give the model alone"));
    }
    if model.exists() {
        return in_folder(model);
    }
    // What is no name of the hub is refused by whoever opens it, as a folder that is not there.
    let Some(name) = model.to_str().and_then(Name::parse) else { return Ok(model) };
    let hub = Hub::open(Settings::from_env()?)?;
    if let Some(found) = hub.find(&name) {
        say_choice(&name, &found);
        return Ok(found);
    }
    let plan = plan(&hub, &name)?;
    say_choice(&name, &plan.model);
    fetch(&hub, &name, &plan)
}

/// The GGUF file of a folder that is none of a model itself, as other programs keep them; all else as it is.
fn in_folder(model: PathBuf) -> Result<PathBuf> {
    if !model.is_dir() || model.join("config.json").exists() {
        return Ok(model);
    }
    // A folder that cannot be read is told by whoever opens it.
    let entries = model.read_dir().into_iter().flatten().flatten();
    let files: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    let found = bouquet_hub::models(files.iter().map(String::as_str));
    match &found[..] {
        [] => Ok(model),
        [file] => Ok(model.join(file)),
        [first, ..] => Err(wrong(
            format!("{} holds several models: {}", model.display(), listed(&found)),
            format!("say which one: {}", model.join(first).display()),
        )),
    }
}

/// Names that an error lists.
const MAX_LISTED: usize = 10;

/// `a.gguf, b.gguf and 3 more`.
fn listed(names: &[String]) -> String {
    let (shown, more) = names.split_at(names.len().min(MAX_LISTED));
    let more = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
    format!("{}{more}", shown.join(", "))
}

/// Says which GGUF file is taken where nobody said which.
pub(crate) fn say_choice(name: &Name, model: &Path) {
    if let (None, true, Some(file)) = (name.choice(), is_gguf(model), model.file_name()) {
        output::note(&format!("of {name}, {} is taken; {name}:Q8_0, say, means another", file.display()));
    }
}

/// The same for a dry run, which fetches nothing: a model of the hub has to be in the cache.
pub(crate) fn folder_for(model: PathBuf, dry_run: bool) -> Result<PathBuf> {
    let name = model.to_str().and_then(Name::parse).filter(|_| dry_run && !model.exists());
    match name {
        Some(name) if Hub::open(Settings::from_env()?)?.find(&name).is_none() => Err(wrong(
            format!("{name} is not in the cache, and a dry run does not fetch it"),
            format!("bouquet pull {name} --dry-run says what would be fetched, and without --dry-run fetches it"),
        )),
        _ => folder(model),
    }
}

/// What would have to be fetched.
pub(crate) fn plan(hub: &Hub, name: &Name) -> Result<Plan> {
    let host = hub.host();
    let mut progress = Progress::new();
    Ok(hub.plan(name, &mut |event| match event {
        Event::Asks { number, files } => progress.show(&format!("asking {host} what to fetch, {number} of {files}")),
        other => say(&mut progress, &other),
    })?)
}

/// Fetches it, and shows how far it is.
pub(crate) fn fetch(hub: &Hub, name: &Name, plan: &Plan) -> Result<PathBuf> {
    if plan.missing.is_empty() {
        return Ok(hub.carry_out(plan, &mut |_| {})?);
    }
    output::note(&format!("fetching {name} from {}: {}", hub.host(), amount(plan)));
    let start = Instant::now();
    let _last_words =
        LastWords::begin(format!("stopped; what came of {name} is kept, and the next try goes on from there"));
    let mut watch = Watch::new(plan, start);
    let model = hub.carry_out(plan, &mut |event| watch.see(&event))?;
    drop(watch);
    let (time, bytes) = (start.elapsed(), plan.bytes_to_come());
    let speed = output::bytes((bytes as f64 / time.as_secs_f64().max(1e-3)) as u64);
    output::note(&format!("fetched {} in {}, {speed}/s", output::bytes(bytes), output::seconds(time)));
    Ok(model)
}

/// `3 files, 1.04 GiB, of which 200 MiB are here`.
fn amount(plan: &Plan) -> String {
    let files = plan.missing.len();
    let here = match plan.bytes_arrived() {
        0 => String::new(),
        bytes => format!(", of which {} are here", output::bytes(bytes)),
    };
    format!("{}, {}{here}", output::counted(files, "file"), output::bytes(plan.bytes()))
}

/// Shows a download on a line.
struct Watch {
    progress: Progress,
    files: usize,
    bytes: u64,
    /// When how many bytes were here, over the last [`WINDOW`]: the speed is that of now.
    seen: VecDeque<(Instant, u64)>,
    shown: Option<Instant>,
}

/// How far back the speed looks.
const WINDOW: Duration = Duration::from_secs(10);

/// Between two changes of the line.
const BETWEEN: Duration = Duration::from_millis(100);

/// Characters of the line; a longer one would not be overwritten in a terminal of the usual width.
const LINE_CHARS: usize = 79;

impl Watch {
    fn new(plan: &Plan, start: Instant) -> Watch {
        Watch {
            progress: Progress::new(),
            files: plan.missing.len(),
            bytes: plan.bytes(),
            seen: VecDeque::from([(start, plan.bytes_arrived())]),
            shown: None,
        }
    }

    fn see(&mut self, event: &Event) {
        let Event::Progress { file, number, done } = *event else { return say(&mut self.progress, event) };
        let now = Instant::now();
        if self.shown.is_some_and(|shown| now - shown < BETWEEN) {
            return;
        }
        self.shown = Some(now);
        self.seen.push_back((now, done));
        while self.seen.len() > 2 && now - self.seen[1].0 > WINDOW {
            self.seen.pop_front();
        }
        let (since, before) = self.seen[0];
        let bytes_per_sec = done.saturating_sub(before) as f64 / (now - since).as_secs_f64().max(1e-3);
        self.progress.show(&line(done, self.bytes, bytes_per_sec, (number, self.files), file));
    }
}

/// `1.23 GiB of 10.1 GiB, 45.6 MiB/s, 3 min 20 s left, 2/7 model-00002-of-00005.safetensors`.
fn line(done: u64, bytes: u64, bytes_per_sec: f64, (number, files): (usize, usize), file: &str) -> String {
    let [done_text, all, speed] = [done, bytes, bytes_per_sec as u64].map(output::bytes);
    let left = if bytes_per_sec < 1.0 {
        String::new()
    } else {
        format!(", {} left", rough(Duration::from_secs_f64(bytes.saturating_sub(done) as f64 / bytes_per_sec)))
    };
    let line = format!("{done_text} of {all}, {speed}/s{left}, {number}/{files} {file}");
    if line.chars().count() <= LINE_CHARS {
        return line;
    }
    line.chars().take(LINE_CHARS - 3).chain("...".chars()).collect()
}

/// A time that nobody knows exactly: `20 s`, `3 min`, `2 h 5 min`.
fn rough(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..100 => format!("{seconds} s"),
        100..6000 => format!("{} min", seconds.div_ceil(60)),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// Says what holds a download up.
fn say(progress: &mut Progress, event: &Event) {
    match event {
        Event::Retries { problem, wait } => {
            progress.note(&format!("{problem}; trying again in {}", output::seconds(*wait)));
        }
        Event::Waits { file } => progress.note(&format!("waiting for another process, which fetches {file}")),
        Event::Asks { .. } | Event::Progress { .. } => {}
    }
}

/// What to try; `None` where the system's error, which is next in the chain, knows better.
pub(crate) fn hint(error: &HubError) -> Option<String> {
    let go_on = "check the network and try again; what came is kept, and HF_HUB_OFFLINE=1 uses what the cache has";
    Some(match error {
        HubError::NoHome => "set HF_HOME to a folder for it".into(),
        HubError::Endpoint { .. } => "correct HF_ENDPOINT, or unset it".into(),
        HubError::Token => "correct HF_TOKEN, or log in again with `hf auth login`".into(),
        HubError::NotCached { name, .. } | HubError::PartlyCached { name, .. } => {
            format!("unset HF_HUB_OFFLINE, or fetch it where there is a network: bouquet pull {name}")
        }
        HubError::Unreachable { .. } => go_on.into(),
        HubError::Certificate { .. } => {
            "somebody may stand between; if your network does so by design, set SSL_CERT_FILE to its certificates"
                .into()
        }
        HubError::Status { status: 429, .. } => {
            "try again in some minutes, or log in: a hub lets those with an HF_TOKEN ask more often".into()
        }
        HubError::Status { status: 401 | 403, .. } => "check HF_TOKEN, and whether you may see this model".into(),
        HubError::Status { .. } => "try again in a while; what came is kept".into(),
        HubError::NoSuchModel { with_token, .. } => {
            let token = if *with_token { "whether your HF_TOKEN may see it" } else { "set HF_TOKEN if it is private" };
            format!("check the name, or the path if a folder of this machine was meant; {token}")
        }
        HubError::NoSuchRevision { repository, .. } => {
            format!("leave the revision out for the newest: {repository}")
        }
        HubError::Gated { repository, .. } => {
            format!("ask for access on the page of {repository}, and set HF_TOKEN to a token of yours")
        }
        HubError::NotAModel { .. } => {
            "take a repository with config.json and model.safetensors, or its index and parts, or one with GGUF files"
                .into()
        }
        HubError::NoSuchFile { repository, known, .. } | HubError::SeveralFiles { repository, known } => {
            match known.first() {
                Some(first) => format!("say which one: {repository}:{first}"),
                None => format!("leave it out: {repository}"),
            }
        }
        HubError::PickleOnly { .. } => {
            "take a revision or a copy of it in safetensors, or convert it: load it with transformers and call \
             save_pretrained(folder)"
                .into()
        }
        HubError::Wrong { .. } => {
            "try again; if it stays so, the hub or what is between it and you is at fault (HF_ENDPOINT, a proxy)".into()
        }
        HubError::NoSpace { .. } => "make room, or set HF_HUB_CACHE to a folder on a larger disk".into(),
        HubError::Damaged { .. } => {
            "if it is of the cache, remove it and fetch the model again with bouquet pull".into()
        }
        HubError::Locked { .. } => "end that process, or wait for it; its lock goes with it".into(),
        HubError::Write { source, .. } => match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::FileTooLarge | std::io::ErrorKind::QuotaExceeded => {
                "make room, or set HF_HUB_CACHE to a folder on a larger disk; what came is kept, and the next try goes \
                 on from there"
                    .into()
            }
            _ => "set HF_HUB_CACHE to a folder that you may write to".into(),
        },
        HubError::Read { .. } => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_bytes_speed_and_time_left_and_fits() {
        let mib = 1 << 20;
        assert_eq!(
            line(100 * mib, 1024 * mib, (4 * mib) as f64, (2, 3), "model.safetensors"),
            "100 MiB of 1.00 GiB, 4.00 MiB/s, 4 min left, 2/3 model.safetensors"
        );
        assert_eq!(line(0, 10, 0.0, (1, 1), "config.json"), "0 B of 10 B, 0 B/s, 1/1 config.json");
        let long = line(u64::MAX, u64::MAX, 1e9, (10_000, 10_000), &"x".repeat(200));
        assert_eq!((long.chars().count(), &long[LINE_CHARS - 3..]), (LINE_CHARS, "..."));
        let times = [5, 99, 100, 5999, 6000, 90_061].map(|seconds| rough(Duration::from_secs(seconds)));
        assert_eq!(times, ["5 s", "99 s", "2 min", "100 min", "1 h 40 min", "25 h 1 min"]);
    }
}
