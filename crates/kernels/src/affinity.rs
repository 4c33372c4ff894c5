//! Where worker threads run. What is particular to one system about it is in this file; elsewhere the system decides.
//!
//! A worker that slept is often woken on its waker's core, and then runs after it instead of beside it; a core of its own
//! cures that. But a fixed core is a poor choice where others might be free: workers keep to cores only when the pool
//! has as many threads as this process may use cores.

/// Keeps the calling thread, worker `worker` (from 1) of a pool of `threads`, to a core of its own. Does nothing where the
/// system has no such thing, or refuses.
#[cfg(target_os = "linux")]
pub(crate) fn keep_to_own_core(worker: usize, threads: usize) {
    use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
    use nix::unistd::Pid;

    let this_thread = Pid::from_raw(0);
    let Ok(allowed) = sched_getaffinity(this_thread) else { return };
    let cores: Vec<usize> = (0..CpuSet::count()).filter(|&core| allowed.is_set(core).unwrap_or(false)).collect();
    if cores.len() != threads {
        return;
    }
    let mut own = CpuSet::new();
    if own.set(cores[worker]).is_ok() {
        let _ = sched_setaffinity(this_thread, &own);
    }
}

/// Nothing.
#[cfg(not(target_os = "linux"))]
pub(crate) fn keep_to_own_core(_worker: usize, _threads: usize) {}
