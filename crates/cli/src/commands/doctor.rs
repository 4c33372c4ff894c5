//! `bouquet doctor`: what this machine is to Bouquet, how fast it is at best, and what stands in the way.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

use anyhow::Result;
use bouquet_kernels::{Cpu, Isa, limits};
use serde::Serialize;
use serde_json::json;

use crate::compute::ComputeArgs;
use crate::limits::Memory;
use crate::{output, system};

/// What was typed.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  bouquet doctor\n  bouquet doctor --isa avx2 --threads 1 --json")]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    compute: ComputeArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What was found here.
#[derive(Clone, Debug, Serialize)]
struct Findings {
    version: &'static str,
    system: &'static str,
    architecture: &'static str,
    /// Instruction sets with kernels of their own that this machine has, from plain to wide.
    instruction_sets: Vec<&'static str>,
    /// The one in use.
    isa: &'static str,
    threads: usize,
    /// Threads that this process is given.
    threads_allowed: usize,
    processors: Option<usize>,
    memory_bytes: Option<u64>,
    available_memory_bytes: Option<u64>,
    huge_pages: Option<String>,
    folders: Vec<Folder>,
}

/// A folder that files are put into.
#[derive(Clone, Debug, Serialize)]
struct Folder {
    purpose: &'static str,
    path: PathBuf,
    exists: bool,
    /// Why nothing can be written there; `None` when all is well.
    problem: Option<String>,
}

/// What this machine does at best, with the instruction set and the threads in use.
struct Speed {
    read_bytes_per_sec: f64,
    f32_ops_per_sec: f64,
    int8_ops_per_sec: f64,
}

/// Something that costs speed, or will fail.
#[derive(Debug, PartialEq, Serialize)]
struct Problem {
    problem: String,
    advice: &'static str,
}

/// Free memory below which the models that people use do not fit: the smallest BLOOM takes half of it in int8.
const LITTLE_MEMORY: u64 = 2 << 30;

pub(crate) fn run(args: DoctorArgs) -> Result<()> {
    let cpu = args.compute.cpu()?;
    let mut progress = output::Progress::new();
    progress.show("measuring");
    let (findings, speed) = (Findings::here(&cpu), Speed::measure(&cpu));
    drop(progress);
    let problems = findings.problems();
    if args.json {
        let mut value = serde_json::to_value(&findings)?;
        value["limits"] = json!({
            "gb_per_sec": speed.read_bytes_per_sec / 1e9,
            "f32_gop_per_sec": speed.f32_ops_per_sec / 1e9,
            "int8_gop_per_sec": speed.int8_ops_per_sec / 1e9,
        });
        value["problems"] = json!(problems);
        return output::json(&value);
    }
    output::write(&report(&findings, &speed, &problems))
}

impl Findings {
    fn here(cpu: &Cpu) -> Findings {
        Findings {
            version: env!("CARGO_PKG_VERSION"),
            system: std::env::consts::OS,
            architecture: std::env::consts::ARCH,
            instruction_sets: Isa::ALL.into_iter().filter(|isa| isa.is_available()).map(Isa::name).collect(),
            isa: cpu.isa().name(),
            threads: cpu.threads(),
            threads_allowed: system::threads(),
            processors: system::processors(),
            memory_bytes: system::total_memory_bytes(),
            available_memory_bytes: system::available_memory_bytes(),
            huge_pages: system::huge_pages(),
            folders: hub_cache().map(|path| Folder::at("models of the Hugging Face hub", path)).into_iter().collect(),
        }
    }

    fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut add = |problem: String, advice| problems.push(Problem { problem, advice });
        if self.instruction_sets == ["scalar"] {
            let problem = match self.architecture {
                "x86_64" => "this processor has no AVX2, without which everything takes many times as long",
                _ => "there are no kernels for this processor, and everything takes many times as long",
            };
            add(problem.to_owned(), "use another machine for all but small models");
        } else if self.instruction_sets.last() != Some(&self.isa) {
            add(format!("{} is used, which is not the best here", self.isa), "leave --isa out");
        }
        if let Some(processors) = self.processors.filter(|&processors| processors > self.threads_allowed) {
            let allowed = self.threads_allowed;
            let problem = format!("this process is given {allowed} of {processors} processors");
            add(problem, "look at the limits of the container, at taskset, or at the CPU quota of the service");
        }
        if self.threads < self.threads_allowed {
            let problem = format!("{} of {} threads are used", self.threads, self.threads_allowed);
            add(problem, "leave --threads out");
        }
        match self.available_memory_bytes {
            None => add(
                "this system does not say how much memory is free".to_owned(),
                "what does not fit is not refused beforehand: look at `bouquet inspect MODEL` first",
            ),
            Some(bytes) if bytes < LITTLE_MEMORY => {
                let problem = format!("{} of memory are free, which is little", output::bytes(bytes));
                add(problem, "close other programs, raise the limit of the container, or use a machine with more");
            }
            Some(_) => {}
        }
        if self.huge_pages.as_deref() == Some("never") {
            add(
                "huge pages are turned off, which costs speed with large models".to_owned(),
                "as root: echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
            );
        }
        for Folder { path, problem, .. } in &self.folders {
            if let Some(problem) = problem {
                let problem = format!("nothing can be written to {}: {problem}", path.display());
                add(problem, "change its permissions, or set HF_HUB_CACHE to a folder of yours");
            }
        }
        if cfg!(debug_assertions) {
            add("this program was built for debugging, and is slow".to_owned(), "build it with --release");
        }
        problems
    }
}

impl Speed {
    fn measure(cpu: &Cpu) -> Speed {
        let memory = Memory::own();
        Speed {
            read_bytes_per_sec: limits::read_bytes_per_sec(cpu, &memory.pieces([].iter()), 10),
            f32_ops_per_sec: limits::f32_ops_per_sec(cpu, 50),
            int8_ops_per_sec: limits::int8_ops_per_sec(cpu, 50),
        }
    }
}

impl Folder {
    /// Tries to write there, or, where the folder does not exist, to the next one above that does.
    fn at(purpose: &'static str, path: PathBuf) -> Folder {
        let exists = path.is_dir();
        let problem = match path.ancestors().find(|folder| folder.exists()) {
            None => Some("no folder above it exists".to_owned()),
            Some(folder) if !folder.is_dir() => Some(format!("{} is not a folder", folder.display())),
            Some(folder) => try_to_write(folder).err().map(|error| error.to_string()),
        };
        Folder { purpose, path, exists, problem }
    }
}

fn try_to_write(folder: &Path) -> std::io::Result<()> {
    let path = folder.join(format!(".bouquet-doctor-{}", std::process::id()));
    OpenOptions::new().write(true).create_new(true).open(&path)?;
    fs::remove_file(path)
}

/// Where models of the hub are kept.
fn hub_cache() -> Option<PathBuf> {
    bouquet_hub::Settings::from_env().ok().map(|settings| settings.cache)
}

fn report(findings: &Findings, speed: &Speed, problems: &[Problem]) -> String {
    let style = output::stdout_style();
    let heading = |text: &str| format!("{}{text}{}\n", style.strong, style.plain);
    let table = |rows: &[(&str, String)]| {
        output::table(&rows.iter().map(|(name, fact)| vec![(*name).to_owned(), fact.clone()]).collect::<Vec<_>>(), 2)
    };
    let or_unknown = |bytes: Option<u64>| bytes.map_or_else(|| "unknown".to_owned(), output::bytes);
    let Findings { isa, threads, processors, .. } = findings;
    let of = processors.map_or_else(String::new, |processors| format!(" of {processors}"));
    let mut text = heading("Machine");
    text += &table(&[
        ("bouquet", format!("{} for {} on {}", findings.version, findings.system, findings.architecture)),
        ("instruction sets", format!("{}; {isa} is used", findings.instruction_sets.join(", "))),
        ("threads", format!("{threads}; this process is given {}{of}", findings.threads_allowed)),
        (
            "memory",
            format!(
                "{}, of which {} are free",
                or_unknown(findings.memory_bytes),
                or_unknown(findings.available_memory_bytes)
            ),
        ),
        ("huge pages", findings.huge_pages.clone().unwrap_or_else(|| "unknown".to_owned())),
    ]);
    text += &heading("Limits, measured now");
    text += &table(&[
        ("reads from memory", format!("{:.1} GB/s", speed.read_bytes_per_sec / 1e9)),
        ("arithmetic in f32", format!("{:.0} GOP/s", speed.f32_ops_per_sec / 1e9)),
        ("arithmetic in int8", format!("{:.0} GOP/s", speed.int8_ops_per_sec / 1e9)),
    ]);
    text += &heading("Folders");
    for Folder { purpose, path, exists, .. } in &findings.folders {
        let yet = if *exists { "" } else { " (not there yet)" };
        text += &table(&[(purpose, format!("{}{yet}", path.display()))]);
    }
    text += &heading("Problems");
    if problems.is_empty() {
        text += "  none found\n";
    }
    for Problem { problem, advice } in problems {
        text += &format!("  {}{problem}{}\n    {advice}\n", style.bad, style.plain);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine without problems.
    fn well() -> Findings {
        Findings {
            version: "0",
            system: "linux",
            architecture: "x86_64",
            instruction_sets: vec!["scalar", "avx2"],
            isa: "avx2",
            threads: 2,
            threads_allowed: 2,
            processors: Some(2),
            memory_bytes: Some(16 << 30),
            available_memory_bytes: Some(8 << 30),
            huge_pages: Some("madvise".to_owned()),
            folders: Vec::new(),
        }
    }

    #[test]
    fn each_problem_is_told_and_nothing_else() {
        let of = |findings: Findings| {
            let mut problems: Vec<String> = findings.problems().into_iter().map(|problem| problem.problem).collect();
            problems.retain(|problem| !problem.contains("debugging"));
            problems.join("; ")
        };
        assert_eq!(of(well()), "");
        assert_eq!(of(Findings { processors: None, huge_pages: None, ..well() }), "");
        let denied = Folder { purpose: "", path: "/c".into(), exists: true, problem: Some("denied".to_owned()) };
        for (findings, expected) in [
            (Findings { instruction_sets: vec!["scalar"], isa: "scalar", ..well() }, "no AVX2"),
            (Findings { isa: "scalar", ..well() }, "scalar is used"),
            (Findings { processors: Some(8), ..well() }, "2 of 8 processors"),
            (Findings { threads: 1, ..well() }, "1 of 2 threads"),
            (Findings { available_memory_bytes: Some(1 << 30), ..well() }, "1.00 GiB of memory"),
            (Findings { available_memory_bytes: None, ..well() }, "does not say"),
            (Findings { huge_pages: Some("never".to_owned()), ..well() }, "huge pages are turned off"),
            (Findings { folders: vec![denied], ..well() }, "written to /c: denied"),
        ] {
            let problems = of(findings);
            assert!(problems.contains(expected) && !problems.contains("; "), "{expected}: {problems}");
        }
    }

    #[test]
    fn folders_are_tried() {
        let parent = tempfile::tempdir().unwrap();
        let file = parent.path().join("file");
        fs::write(&file, "").unwrap();
        let problem = |path: &Path| Folder::at("", path.to_owned()).problem;
        assert_eq!(problem(parent.path()), None);
        assert_eq!(problem(&parent.path().join("a/b")), None);
        assert!(problem(&file.join("a")).is_some_and(|problem| problem.contains("is not a folder")));
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1, "nothing is left");
    }
}
