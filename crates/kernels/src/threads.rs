//! A small pool of threads for short, even tasks. The caller works too. Workers that find nothing to do spin for
//! [`SPIN`] before they sleep: a decode step is hundreds of fork-joins a few microseconds apart, and waking a sleeping
//! thread costs more than most of them.
//!
//! One job is open at a time; callers take turns. A worker *enters* a job while it is open and *leaves* it when no task
//! is left; the caller closes the job when its own search for tasks ends, and waits only for those who entered. A
//! worker that wakes too late thus costs nothing. All of this is one word, `state`:
//!
//! ```text
//! | epoch: 46 bits | stop: 1 | open: 1 | workers inside: 16 |
//! ```

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crate::affinity::keep_to_own_core;

/// How long a thread spins before it sleeps.
const SPIN: Duration = Duration::from_micros(80);

/// Most workers: `state` counts those inside.
const MOST_WORKERS: usize = INSIDE as usize;

const INSIDE: u64 = 0xffff;
const OPEN: u64 = 1 << 16;
const STOP: u64 = 1 << 17;
const EPOCH: u64 = 1 << 18;

thread_local! {
    /// Whether this thread is inside a task; a job started there runs on this thread alone.
    static IN_TASK: Cell<bool> = const { Cell::new(false) };
}

/// What a worker does for as long as it lives.
type Work = Box<dyn FnOnce() + Send>;

/// The threads of a [`Cpu`](crate::Cpu) besides the caller's.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    turn: Mutex<()>,
}

struct Shared {
    state: AtomicU64,
    /// The open job. Written by the caller while the job is closed and nobody is inside; read by those inside.
    job: UnsafeCell<Job>,
    /// The next task to be taken.
    next: AtomicUsize,
    /// The first panic of the job.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    /// Workers asleep, or about to be.
    sleepers: AtomicUsize,
    lock: Mutex<()>,
    opened: Condvar,
    left: Condvar,
}

#[derive(Clone, Copy)]
struct Job {
    task: *const (dyn Fn(usize) + Sync),
    tasks: usize,
}

// SAFETY: `job` is the only part that is not `Sync` by itself; the protocol above orders its writes and reads, and the
// closure it points to is `Sync` and outlives the job.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer may be moved between threads with the rest.
unsafe impl Send for Shared {}

impl Pool {
    /// Up to `workers` threads besides the caller's: as many as the system gives. Fewer are slower and nothing else.
    pub(crate) fn new(workers: usize) -> Self {
        Pool::spawned_by(workers, |index, work| Builder::new().name(format!("kernels-{index}")).spawn(work))
    }

    /// The same with threads that `spawn` starts; it is asked for no more once it has refused one.
    fn spawned_by(workers: usize, spawn: impl Fn(usize, Work) -> std::io::Result<JoinHandle<()>>) -> Self {
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            job: UnsafeCell::new(Job { task: &|_| {}, tasks: 0 }),
            next: AtomicUsize::new(0),
            panic: Mutex::new(None),
            sleepers: AtomicUsize::new(0),
            lock: Mutex::new(()),
            opened: Condvar::new(),
            left: Condvar::new(),
        });
        let workers = workers.min(MOST_WORKERS);
        let start = |index| {
            let shared = Arc::clone(&shared);
            let work = move || {
                keep_to_own_core(index, workers + 1);
                shared.work();
            };
            spawn(index, Box::new(work)).ok()
        };
        let workers = (1..=workers).map_while(start).collect();
        Pool { shared, workers, turn: Mutex::new(()) }
    }

    /// Threads, the caller's included.
    pub(crate) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `task` for `0..tasks`; see [`Cpu::run`](crate::Cpu::run).
    pub(crate) fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        if tasks <= 1 || self.workers.is_empty() || IN_TASK.get() {
            (0..tasks).for_each(task);
            return;
        }
        let turn = lock(&self.turn);
        let shared = &*self.shared;
        // SAFETY: the lifetime of the closure is forgotten here only; nobody calls it after this function has seen
        // that all who entered have left.
        let task = unsafe { std::mem::transmute::<*const (dyn Fn(usize) + Sync), *const (dyn Fn(usize) + Sync)>(task) };
        let job = Job { task, tasks };
        // SAFETY: it is our turn, the last job is closed and everybody has left it.
        unsafe { *shared.job.get() = job };
        shared.next.store(0, Ordering::Relaxed);
        shared.state.fetch_add(EPOCH | OPEN, Ordering::SeqCst);
        if shared.sleepers.load(Ordering::SeqCst) > 0 {
            let _guard = lock(&shared.lock);
            shared.opened.notify_all();
        }

        shared.take_tasks(job);
        shared.state.fetch_sub(OPEN, Ordering::SeqCst);
        let empty = || shared.state.load(Ordering::SeqCst) & INSIDE == 0;
        if !spin_until(empty) {
            let mut guard = lock(&shared.lock);
            while !empty() {
                guard = shared.left.wait(guard).unwrap_or_else(PoisonError::into_inner);
            }
        }
        let panic = lock(&shared.panic).take();
        drop(turn);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.state.fetch_or(STOP, Ordering::SeqCst);
        {
            let _guard = lock(&self.shared.lock);
            self.shared.opened.notify_all();
        }
        for worker in self.workers.drain(..) {
            // A worker catches the panics of its tasks; it has none of its own.
            let _ = worker.join();
        }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pool({} threads)", self.threads())
    }
}

impl Shared {
    /// The life of a worker.
    fn work(&self) {
        let mut seen = 0;
        loop {
            let news = || {
                let state = self.state.load(Ordering::SeqCst);
                state & STOP != 0 || (state & OPEN != 0 && state / EPOCH != seen)
            };
            if !spin_until(news) {
                let mut guard = lock(&self.lock);
                self.sleepers.fetch_add(1, Ordering::SeqCst);
                while !news() {
                    guard = self.opened.wait(guard).unwrap_or_else(PoisonError::into_inner);
                }
                self.sleepers.fetch_sub(1, Ordering::SeqCst);
            }
            let state = self.state.load(Ordering::SeqCst);
            if state & STOP != 0 {
                return;
            }
            let enter = |state: u64| (state & OPEN != 0 && state / EPOCH != seen).then_some(state + 1);
            let Ok(state) = self.state.fetch_update(Ordering::SeqCst, Ordering::SeqCst, enter) else { continue };
            seen = state / EPOCH;
            // SAFETY: we are inside, so nobody writes the job until we leave.
            self.take_tasks(unsafe { *self.job.get() });
            let state = self.state.fetch_sub(1, Ordering::SeqCst);
            if state & OPEN == 0 && state & INSIDE == 1 {
                let _guard = lock(&self.lock);
                self.left.notify_all();
            }
        }
    }

    /// Takes tasks until none is left, or one panics.
    fn take_tasks(&self, job: Job) {
        IN_TASK.set(true);
        let done = catch_unwind(AssertUnwindSafe(|| {
            loop {
                let index = self.next.fetch_add(1, Ordering::Relaxed);
                if index >= job.tasks {
                    break;
                }
                // SAFETY: the caller waits for all who take tasks before it lets the closure go.
                unsafe { (*job.task)(index) };
            }
        }));
        IN_TASK.set(false);
        if let Err(panic) = done {
            self.next.store(job.tasks, Ordering::Relaxed);
            lock(&self.panic).get_or_insert(panic);
        }
    }
}

/// Spins until `condition` holds; false when it does not within [`SPIN`].
fn spin_until(condition: impl Fn() -> bool) -> bool {
    let start = Instant::now();
    loop {
        for _ in 0..64 {
            if condition() {
                return true;
            }
            std::hint::spin_loop();
        }
        if start.elapsed() > SPIN {
            return false;
        }
    }
}

/// Locks; a panic elsewhere leaves nothing half-done behind these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waits until `condition` holds, for 20 s at most: a test that would hang fails instead.
    fn wait_until(condition: impl Fn() -> bool) -> bool {
        let start = Instant::now();
        while !condition() {
            if start.elapsed() > Duration::from_secs(20) {
                return false;
            }
            std::thread::yield_now();
        }
        true
    }

    /// A job that ends only once as many threads as `pool` has are inside at the same time.
    fn assert_all_threads_work(pool: &Pool) {
        let inside = AtomicUsize::new(0);
        let missed = AtomicUsize::new(0);
        pool.run(pool.threads(), &|_| {
            inside.fetch_add(1, Ordering::SeqCst);
            if !wait_until(|| inside.load(Ordering::SeqCst) == pool.threads()) {
                missed.fetch_add(1, Ordering::SeqCst);
            }
        });
        assert_eq!((inside.into_inner(), missed.into_inner()), (pool.threads(), 0));
    }

    #[test]
    fn workers_that_fell_asleep_are_woken() {
        let pool = Pool::new(2);
        for _ in 0..20 {
            assert!(
                wait_until(|| pool.shared.sleepers.load(Ordering::SeqCst) == 2),
                "workers sleep when nothing comes"
            );
            assert_all_threads_work(&pool);
        }
    }

    #[test]
    fn threads_that_the_system_refuses_are_done_without() {
        for given in [0, 1, 3] {
            let asked = AtomicUsize::new(0);
            let pool = Pool::spawned_by(30_000, |index, work| {
                asked.fetch_add(1, Ordering::SeqCst);
                if index > given {
                    return Err(std::io::ErrorKind::WouldBlock.into());
                }
                Builder::new().spawn(work)
            });
            assert_eq!((pool.threads(), asked.into_inner()), (given + 1, given + 1));
            assert_all_threads_work(&pool);
        }
    }
}
