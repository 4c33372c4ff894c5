//! The pool behind `Cpu::run`: every task once, panics passed on, callers in turn, nothing left hanging.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

use bouquet_kernels::{Cpu, Isa, Matrix};

fn assert_all_run_once(cpu: &Cpu, tasks: usize) {
    let runs: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
    cpu.run(tasks, |task| {
        runs[task].fetch_add(1, Ordering::Relaxed);
    });
    assert!(runs.iter().all(|runs| runs.load(Ordering::Relaxed) == 1));
}

#[test]
fn every_task_runs_once() {
    for threads in 0..6 {
        let cpu = Cpu::new(threads);
        assert_eq!(cpu.threads(), threads.max(1));
        for tasks in [0, 1, 2, 3, 7, 100, 1000] {
            assert_all_run_once(&cpu, tasks);
        }
    }
}

#[test]
fn many_short_jobs_in_a_row() {
    let cpu = Cpu::new(4);
    for job in 0..20_000 {
        assert_all_run_once(&cpu, job % 9);
    }
}

#[test]
fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
    for threads in [1, 4] {
        let cpu = Cpu::new(threads);
        for culprit in [0, 17, 63] {
            let run = || cpu.run(64, |task| assert_ne!(task, culprit, "task {task} fails"));
            let panic = catch_unwind(AssertUnwindSafe(run)).expect_err("the panic is passed on");
            let message = panic.downcast_ref::<String>().expect("a message");
            assert!(message.contains(&format!("task {culprit} fails")), "{message}");
            assert_all_run_once(&cpu, 100);
        }
    }
}

#[test]
fn callers_take_turns() {
    let cpu = Cpu::new(3);
    std::thread::scope(|scope| {
        for _ in 0..5 {
            scope.spawn(|| (0..500).for_each(|job| assert_all_run_once(&cpu, job % 12)));
        }
    });
}

#[test]
fn a_task_may_run_tasks() {
    let cpu = Cpu::new(3);
    let count = AtomicUsize::new(0);
    cpu.run(5, |_| {
        cpu.run(4, |_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
    });
    assert_eq!(count.into_inner(), 20);
}

#[test]
fn after_a_panic_inside_a_task_inside_a_task() {
    let cpu = Cpu::new(2);
    let nested = || cpu.run(8, |_| cpu.run(3, |inner| assert_ne!(inner, 2)));
    assert!(catch_unwind(AssertUnwindSafe(nested)).is_err());
    assert_all_run_once(&cpu, 10);
}

#[test]
fn rows_are_handed_out_once_each() {
    for threads in 1..4 {
        let cpu = Cpu::new(threads);
        for (rows, cols) in [(0, 5), (5, 0), (1, 1), (3, 10), (1000, 33), (7, 5000)] {
            let mut matrix = Matrix::zeros(rows, cols);
            cpu.for_each_row(matrix.view_mut(), |index, row| row.iter_mut().for_each(|x| *x += 1.0 + index as f32));
            for row in 0..rows {
                assert!(matrix.row(row).iter().all(|x| *x == 1.0 + row as f32));
            }
        }
    }
}

#[test]
fn isas_are_those_of_the_machine() {
    let available: Vec<Isa> = Isa::ALL.into_iter().filter(|&isa| Cpu::with_isa(isa, 1).is_some()).collect();
    assert!(available.contains(&Isa::Scalar), "{available:?}");
    for (wide, needs) in [
        (Isa::AvxVnni, Isa::Avx2),
        (Isa::Avx512, Isa::Avx2),
        (Isa::Avx512Vnni, Isa::Avx512),
        (Isa::Amx, Isa::Avx512Vnni),
        (Isa::NeonDot, Isa::Neon),
        (Isa::NeonI8mm, Isa::NeonDot),
    ] {
        assert!(!available.contains(&wide) || available.contains(&needs), "{available:?}");
    }
    assert_eq!(available.contains(&Isa::Neon), cfg!(target_arch = "aarch64"), "{available:?}");
    assert!(cfg!(target_arch = "x86_64") || !available.contains(&Isa::Avx2), "{available:?}");
    assert_eq!(available.last(), Some(&Cpu::new(1).isa()), "the widest is the one in use");
    assert!(format!("{:?}", Cpu::new(2)).contains("2 threads"));
}
