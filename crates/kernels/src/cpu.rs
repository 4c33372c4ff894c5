//! How this process computes: which instruction set, on how many threads. Chosen once, at run time, and handed to
//! every kernel; it never changes a bit of a result.

use std::ops::Range;

use crate::MatrixViewMut;
use crate::profile::{OperationTime, Profile};
use crate::simd::Out;
#[cfg(target_arch = "x86_64")]
use crate::simd::ints;
use crate::threads::Pool;

/// An instruction set that has kernels of its own. `Scalar` is the truth that the others are tested against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// Plain Rust.
    Scalar,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// The same with AVX-VNNI, dot products of bytes in registers of 256 bits.
    AvxVnni,
    /// x86-64 with AVX-512 F, BW, DQ and VL.
    Avx512,
    /// The same with AVX-512 VNNI.
    Avx512Vnni,
    /// The same with AMX, products of matrices of bytes; where the system lets us and a first product is right.
    Amx,
    /// aarch64.
    Neon,
    /// The same with FEAT_DotProd, dot products of bytes.
    NeonDot,
    /// The same with FEAT_I8MM, products of matrices of bytes.
    NeonI8mm,
}

impl Isa {
    /// All of them, from plain to wide.
    pub const ALL: [Isa; 9] = [
        Isa::Scalar,
        Isa::Avx2,
        Isa::AvxVnni,
        Isa::Avx512,
        Isa::Avx512Vnni,
        Isa::Amx,
        Isa::Neon,
        Isa::NeonDot,
        Isa::NeonI8mm,
    ];

    /// The best that this machine has.
    pub fn best() -> Isa {
        Isa::ALL.into_iter().rev().find(|isa| isa.is_available()).unwrap_or(Isa::Scalar)
    }

    /// What reports call it.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::AvxVnni => "avxvnni",
            Isa::Avx512 => "avx512",
            Isa::Avx512Vnni => "avx512vnni",
            Isa::Amx => "amx",
            Isa::Neon => "neon",
            Isa::NeonDot => "neondot",
            Isa::NeonI8mm => "neoni8mm",
        }
    }

    /// Whether this machine has it.
    pub fn is_available(self) -> bool {
        match self {
            Isa::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => Isa::Avx2.is_available() && is_x86_feature_detected!("avxvnni"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => Isa::Avx512.is_available() && is_x86_feature_detected!("avx512vnni"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                Isa::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => Isa::Avx512Vnni.is_available() && ints::amx_works(),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDot => Isa::Neon.is_available() && std::arch::is_aarch64_feature_detected!("dotprod"),
            #[cfg(target_arch = "aarch64")]
            Isa::NeonI8mm => Isa::NeonDot.is_available() && std::arch::is_aarch64_feature_detected!("i8mm"),
            #[allow(unreachable_patterns)]
            _ => false,
        }
    }
}

/// An instruction set and a pool of threads. Cheap to share by reference; kernels called from several threads at once
/// take turns.
#[derive(Debug)]
pub struct Cpu {
    /// Available on this machine: the kernels' `unsafe` leans on it.
    isa: Isa,
    pool: Pool,
    profile: Option<Profile>,
}

impl Cpu {
    /// The best instruction set of this machine, on `threads` threads, the caller's among them (0 counts as 1). Where
    /// the system gives fewer, these do the work; [`threads`](Self::threads) tells how many there are.
    pub fn new(threads: usize) -> Self {
        Cpu { isa: Isa::best(), pool: Pool::new(threads.max(1) - 1), profile: None }
    }

    /// A given instruction set; `None` where this machine does not have it. Threads as in [`new`](Self::new).
    pub fn with_isa(isa: Isa, threads: usize) -> Option<Self> {
        isa.is_available().then(|| Cpu { isa, pool: Pool::new(threads.max(1) - 1), profile: None })
    }

    /// The same, counting how long each operation takes.
    pub fn profiled(self) -> Self {
        Cpu { profile: Some(Profile::default()), ..self }
    }

    /// Runs `work`, an operation of that name, and counts its time if this is [`profiled`](Self::profiled). Operations may
    /// run inside of others, but not inside of tasks of [`run`](Self::run).
    pub fn timed<T>(&self, operation: &'static str, work: impl FnOnce() -> T) -> T {
        match &self.profile {
            None => work(),
            Some(profile) => profile.timed(operation, work),
        }
    }

    /// The time that each operation took since this was last asked; nothing unless this is [`profiled`](Self::profiled).
    pub fn take_profile(&self) -> Vec<OperationTime> {
        self.profile.as_ref().map_or_else(Vec::new, Profile::take)
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// The number of threads that work, the caller's included.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Calls `task(0)` to `task(tasks - 1)`, each once, on any thread, and returns when all are done. A panic in a
    /// task is passed on to the caller, and tasks not begun by then are not. A task may call `run` itself; its tasks
    /// then stay on its thread.
    pub fn run(&self, tasks: usize, task: impl Fn(usize) + Sync) {
        self.pool.run(tasks, &task);
    }

    /// Calls `work(index, row)` for each row of `matrix`, on any thread; on the caller's alone when it is small.
    pub fn for_each_row(&self, matrix: MatrixViewMut<'_>, work: impl Fn(usize, &mut [f32]) + Sync) {
        let cost = matrix.cols();
        self.for_each_costly_row(matrix, cost, work);
    }

    /// The same where a row is as much work as `cost` numbers, whatever its width.
    pub(crate) fn for_each_costly_row(
        &self,
        mut matrix: MatrixViewMut<'_>,
        cost: usize,
        work: impl Fn(usize, &mut [f32]) + Sync,
    ) {
        let rows = matrix.rows();
        if self.threads() == 1 || rows * cost < SMALL {
            for row in 0..rows {
                work(row, matrix.row_mut(row));
            }
            return;
        }
        let per_task = rows.div_ceil(4 * self.threads()).max(SMALL.div_ceil(4 * cost));
        let out = SharedOut::new(&mut matrix);
        self.run(rows.div_ceil(per_task), |task| {
            for row in task * per_task..rows.min((task + 1) * per_task) {
                // SAFETY: each row belongs to one task.
                work(row, unsafe { out.row(row) });
            }
        });
    }
}

/// Numbers below which a second thread is not worth waking.
const SMALL: usize = 8192;

/// A matrix that several threads write, each its own part of.
#[derive(Clone, Copy)]
pub(crate) struct SharedOut<'a> {
    data: *mut f32,
    rows: usize,
    cols: usize,
    matrix: std::marker::PhantomData<&'a mut [f32]>,
}

// SAFETY: it is a pointer to floats; whoever writes through it promises to keep to its own part.
unsafe impl Sync for SharedOut<'_> {}
// SAFETY: as above.
unsafe impl Send for SharedOut<'_> {}

impl<'a> SharedOut<'a> {
    pub(crate) fn new(matrix: &'a mut MatrixViewMut<'_>) -> Self {
        let (rows, cols) = (matrix.rows(), matrix.cols());
        SharedOut { data: matrix.data_mut().as_mut_ptr(), rows, cols, matrix: std::marker::PhantomData }
    }

    /// Where `(row, col)` is. A view's numbers are all there, so the address cannot wrap.
    pub(crate) fn at(&self, row: usize, col: usize) -> *mut f32 {
        assert!(row < self.rows && col <= self.cols, "({row}, {col}) in [{}, {}]", self.rows, self.cols);
        // SAFETY: inside the matrix, or one past its end.
        unsafe { self.data.add(row * self.cols + col) }
    }

    /// A block of rows and columns.
    ///
    /// # Safety
    /// No two blocks handed out at the same time may overlap.
    pub(crate) unsafe fn block(&self, rows: Range<usize>, cols: Range<usize>) -> Out<'_> {
        assert!(rows.start < rows.end && rows.end <= self.rows && cols.start <= cols.end && cols.end <= self.cols);
        // SAFETY: checked here and in `at`; the caller keeps it to one task.
        unsafe { Out::from_raw(self.at(rows.start, cols.start), self.cols, rows.len(), cols.len()) }
    }

    /// One row.
    ///
    /// # Safety
    /// No two rows handed out at the same time may be the same one.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn row(&self, row: usize) -> &mut [f32] {
        // SAFETY: `at` has checked the row; the caller keeps it to one task.
        unsafe { std::slice::from_raw_parts_mut(self.at(row, 0), self.cols) }
    }

    /// Columns `col .. col + len` of one row.
    ///
    /// # Safety
    /// No two parts handed out at the same time may overlap.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn part(&self, row: usize, col: usize, len: usize) -> &mut [f32] {
        assert!(col <= self.cols && len <= self.cols - col, "{len} columns from {col} on of {}", self.cols);
        // SAFETY: checked here and in `at`; the caller keeps it to one task.
        unsafe { std::slice::from_raw_parts_mut(self.at(row, col), len) }
    }
}

/// A slice that several threads write, each its own part of.
#[derive(Clone, Copy)]
pub(crate) struct SharedSlice<'a, T> {
    data: *mut T,
    len: usize,
    slice: std::marker::PhantomData<&'a mut [T]>,
}

// SAFETY: as for `SharedOut`.
unsafe impl<T: Send> Sync for SharedSlice<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for SharedSlice<'_, T> {}

impl<'a, T> SharedSlice<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        SharedSlice { data: slice.as_mut_ptr(), len: slice.len(), slice: std::marker::PhantomData }
    }

    /// A part of it.
    ///
    /// # Safety
    /// No two parts handed out at the same time may overlap.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {}", self.len);
        // SAFETY: checked here; the caller keeps it to one task.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(range.start), range.len()) }
    }
}
