//! How this process computes: which instruction set, on how many threads. Chosen once, at run time, and handed to
//! every kernel; it never changes a bit of a result.

use crate::MatrixViewMut;

/// An instruction set that has kernels of its own. `Scalar` is the truth that the others are tested against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// Plain Rust.
    Scalar,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// x86-64 with AVX-512 F, BW, DQ and VL.
    Avx512,
    /// aarch64.
    Neon,
}

/// An instruction set and a pool of threads. Cheap to share by reference; kernels called from several threads at once
/// take turns.
#[derive(Debug)]
pub struct Cpu {
    isa: Isa,
}

impl Cpu {
    /// The best instruction set of this machine, on `threads` threads, the caller's among them (0 counts as 1).
    pub fn new(threads: usize) -> Self {
        let _ = threads;
        todo!()
    }

    /// A given instruction set; `None` where this machine does not have it.
    pub fn with_isa(isa: Isa, threads: usize) -> Option<Self> {
        let _ = (isa, threads);
        todo!()
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// The number of threads, the caller's included.
    pub fn threads(&self) -> usize {
        todo!()
    }

    /// Calls `task(0)` to `task(tasks - 1)`, each once, on any thread, and returns when all are done. A panic in a
    /// task is passed on to the caller.
    pub fn run(&self, tasks: usize, task: impl Fn(usize) + Sync) {
        let _ = (tasks, task);
        todo!()
    }

    /// Calls `work(index, row)` for each row of `matrix`, on any thread.
    pub fn for_each_row(&self, matrix: MatrixViewMut<'_>, work: impl Fn(usize, &mut [f32]) + Sync) {
        let _ = (matrix, work);
        todo!()
    }
}
