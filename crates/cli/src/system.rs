//! What is particular to a system: how much memory there is, how much was used, and signals. Linux says in files how
//! much memory there is; elsewhere nobody is asked, and what depends on it is left out.

use std::fs;
use std::path::{Path, PathBuf};

/// The most memory that this process has held, in bytes, mapped weights included.
pub(crate) fn peak_memory_bytes() -> Option<u64> {
    kilobytes(&fs::read_to_string("/proc/self/status").ok()?, "VmHWM:")
}

/// Begins to count the most memory anew from what is held now, where the system can.
pub(crate) fn forget_peak_memory() {
    // 5 is that: proc(5), clear_refs. Where it cannot be, the most is that since the beginning.
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// The memory that this process holds now, in bytes, mapped weights included.
pub(crate) fn memory_bytes() -> Option<u64> {
    kilobytes(&fs::read_to_string("/proc/self/status").ok()?, "VmRSS:")
}

/// Memory that this process may still use, in bytes: what the machine has free or can free, or less where a control
/// group or `ulimit -v` sets a limit.
pub(crate) fn available_memory_bytes() -> Option<u64> {
    let machine = kilobytes(&fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")?;
    let machine = address_space_left().map_or(machine, |left| left.min(machine));
    let cgroups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let group = cgroups.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let root = Path::new("/sys/fs/cgroup");
    let limits = root.join(group).ancestors().filter(|path| path.starts_with(root)).filter_map(left_in_group).min();
    Some(limits.map_or(machine, |limit| limit.min(machine)))
}

/// Where programs of this system keep what they can make again.
pub(crate) fn cache_folder() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    if let Some(folder) = variable("XDG_CACHE_HOME") {
        return Some(folder);
    }
    if cfg!(windows) {
        return variable("LOCALAPPDATA");
    }
    let within = if cfg!(target_os = "macos") { "Library/Caches" } else { ".cache" };
    Some(std::env::home_dir()?.join(within))
}

/// Bytes that the disk of a path has free for this user, whether the path is there yet or not.
#[cfg(unix)]
pub(crate) fn free_disk_bytes(path: &Path) -> Option<u64> {
    let path = std::path::absolute(path).ok()?;
    let there = path.ancestors().find(|path| path.exists())?;
    let disk = nix::sys::statvfs::statvfs(there).ok()?;
    // Their types differ from system to system.
    #[allow(clippy::useless_conversion, clippy::unnecessary_cast)]
    (disk.blocks_available() as u64).checked_mul(disk.fragment_size() as u64)
}

#[cfg(not(unix))]
pub(crate) fn free_disk_bytes(_path: &Path) -> Option<u64> {
    None
}

/// Makes a file that outgrows the user's limit (`ulimit -f`) an error of the write instead of the end of the program,
/// which would leave its temporary file. To be called before there are other threads, which take this over.
#[cfg(unix)]
pub(crate) fn outlive_file_limit() {
    use nix::sys::signal::{SigSet, Signal};
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGXFSZ);
    // Without it the signal ends the program, as it would have done.
    let _ = signals.thread_block();
}

#[cfg(not(unix))]
pub(crate) fn outlive_file_limit() {}

/// The memory of this machine, in bytes.
pub(crate) fn total_memory_bytes() -> Option<u64> {
    kilobytes(&fs::read_to_string("/proc/meminfo").ok()?, "MemTotal:")
}

/// Whether memory comes in huge pages: `always`, `madvise` (where a program asks for it, as this one does) or `never`.
pub(crate) fn huge_pages() -> Option<String> {
    let setting = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").ok()?;
    setting.split_whitespace().find_map(|word| Some(word.strip_prefix('[')?.strip_suffix(']')?.to_owned()))
}

/// Processors of this machine, whether this process may use them or not.
pub(crate) fn processors() -> Option<usize> {
    count_of_ranges(fs::read_to_string("/sys/devices/system/cpu/online").ok()?.trim())
}

/// How many numbers a list like `0-3,8` names.
fn count_of_ranges(list: &str) -> Option<usize> {
    let count = |range: &str| -> Option<usize> {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        last.parse::<usize>().ok()?.checked_sub(first.parse().ok()?)?.checked_add(1)
    };
    list.split(',').map(count).try_fold(0usize, |sum, count| sum.checked_add(count?))
}

/// The number of threads that this process is given.
pub(crate) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// What a limit on addresses has left, but for what an allocator may take without using it; `None` where there is no such
/// limit.
fn address_space_left() -> Option<u64> {
    /// Addresses that glibc reserves for a thread when it first allocates, of which a model's opening starts some.
    const ARENA_BYTES: u64 = 2 * (64 << 20);
    let limit = soft_limit(&fs::read_to_string("/proc/self/limits").ok()?, "Max address space")?;
    let used = kilobytes(&fs::read_to_string("/proc/self/status").ok()?, "VmSize:")?;
    Some(limit.saturating_sub(used).saturating_sub(ARENA_BYTES))
}

/// The first number of a line like `Max address space   1024   unlimited   bytes`; `None` for `unlimited`.
fn soft_limit(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

/// What a control group (version 2) has left; `None` where it sets no limit.
fn left_in_group(group: &Path) -> Option<u64> {
    let number = |file| fs::read_to_string(group.join(file)).ok()?.trim().parse::<u64>().ok();
    let (limit, used) = (number("memory.max")?, number("memory.current")?);
    // File pages that nobody has used lately count as used, but are given back when memory is short.
    let stat = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
    let reclaimable = stat.lines().find_map(|line| line.strip_prefix("inactive_file ")?.trim().parse::<u64>().ok());
    Some(limit.saturating_sub(used.saturating_sub(reclaimable.unwrap_or(0))))
}

/// The number of a line like `VmHWM:   1234 kB`, in bytes.
fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_kilobytes_is_read() {
        let status = "Name:\tbouquet\nVmPeak:\t  900 kB\nVmHWM:\t  123 kB\n";
        assert_eq!(kilobytes(status, "VmHWM:"), Some(123 * 1024));
        assert_eq!(kilobytes(status, "VmRSS:"), None);
        assert_eq!(kilobytes("VmHWM: lots kB", "VmHWM:"), None);
    }

    #[test]
    fn a_limit_is_read_where_there_is_one() {
        let limits = "Limit    Soft Limit  Hard Limit  Units\nMax address space   1024  unlimited   bytes\n";
        assert_eq!(soft_limit(limits, "Max address space"), Some(1024));
        assert_eq!(soft_limit(&limits.replace("1024", "unlimited"), "Max address space"), None);
    }

    #[test]
    fn lists_of_processors_are_counted() {
        for (list, expected) in [("0", Some(1)), ("0-3,8", Some(5)), ("0-1,4-7", Some(6)), ("3-1", None), ("", None)] {
            assert_eq!(count_of_ranges(list), expected, "{list}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn linux_says_how_much_memory_there_is() {
        assert!(peak_memory_bytes().is_some_and(|bytes| bytes > 1 << 16));
        assert!(available_memory_bytes().is_some_and(|bytes| bytes > 1 << 20));
    }
}
