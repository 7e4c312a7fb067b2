//! What the machine takes for the least that an operation has to do: what the rows "beside its limit" are put beside.

use super::Bench;
use super::harness::{Group, Measure, Plan, repeated};
use std::cell::RefCell;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// As many bytes as an event's slot takes.
type Block = [u64; 12];

pub(super) fn group<'a>(bench: &'a Bench) -> Group<'a> {
    let plan = &bench.plan;
    let mut group = Group::new("Limits");
    let nothing = group.variant("an empty loop", once(plan, || black_box(())));
    let word = AtomicU64::new(0);
    let lock = Mutex::new(0_u64);
    let rows = [
        ("an atomic read", read(plan)),
        (
            "an atomic addition that nobody contends",
            once(plan, move || black_box(word.fetch_add(1, Ordering::AcqRel))),
        ),
        ("a lock that nobody contends, and its release", once(plan, move || locked(&lock))),
        ("a thread's own stack: pop and push", stack(plan)),
        ("an allocation of an event's size, and its end", once(plan, || black_box(Box::<Block>::default()))),
        ("a reading of the clock", once(plan, || black_box(Instant::now()))),
        #[cfg(target_os = "linux")]
        ("a futex wake with nobody to wake", futex::wakes(plan)),
    ];
    for (name, measure) in rows {
        let variant = group.variant(name, measure);
        group.row(name, variant, nothing, []);
    }
    group
}

fn once<'a, T>(plan: &Plan, mut operation: impl FnMut() -> T + 'a) -> Measure<'a> {
    repeated(plan, move || {
        operation();
        Ok(())
    })
}

fn locked(lock: &Mutex<u64>) {
    *black_box(lock).lock().unwrap_or_else(PoisonError::into_inner) += 1;
}

/// Status of what is known: one read tells.
pub(super) fn read<'a>(plan: &Plan) -> Measure<'a> {
    let word = AtomicU64::new(0);
    once(plan, move || black_box(black_box(&word).load(Ordering::Acquire)))
}

/// Status of what is pending: one read says where to look, and another what is there.
pub(super) fn two_reads<'a>(plan: &Plan) -> Measure<'a> {
    let boxed = Box::new((AtomicU64::new(0), Box::new(AtomicU64::new(0))));
    once(plan, move || {
        let (state, lane) = &**black_box(&boxed);
        black_box(state.load(Ordering::Acquire));
        black_box(lane.load(Ordering::Acquire))
    })
}

thread_local! {
    #[expect(clippy::vec_box, reason = "a pool hands out the very thing, and not a copy")]
    static STACK: RefCell<Vec<Box<Block>>> = const { RefCell::new(Vec::new()) };
}

fn pop() -> Box<Block> {
    STACK.with_borrow_mut(Vec::pop).unwrap_or_default()
}

fn push(block: Box<Block>) {
    STACK.with_borrow_mut(|stack| stack.push(block));
}

/// Acquire and drop: no pool does with less that hands out again what it had.
pub(super) fn stack<'a>(plan: &Plan) -> Measure<'a> {
    once(plan, || push(black_box(pop())))
}

/// Acquire, record, complete and drop: the stack; a lock, which puts those who record into an order; and an exchange, by
/// which the completion is published.
pub(super) fn life<'a>(plan: &Plan) -> Measure<'a> {
    let (lock, word) = (Mutex::new(0_u64), AtomicU64::new(0));
    once(plan, move || {
        let block = black_box(pop());
        let mut recorded = black_box(&lock).lock().unwrap_or_else(PoisonError::into_inner);
        *recorded += 1;
        let _ = word.compare_exchange(*recorded - 1, *recorded, Ordering::Release, Ordering::Relaxed);
        drop(recorded);
        push(block);
    })
}

/// The same, timed: the clock is read as well.
pub(super) fn timed_life<'a>(plan: &Plan) -> Measure<'a> {
    let (lock, word) = (Mutex::new(0_u64), AtomicU64::new(0));
    once(plan, move || {
        let block = black_box(pop());
        let mut recorded = black_box(&lock).lock().unwrap_or_else(PoisonError::into_inner);
        *recorded += 1;
        black_box(Instant::now());
        let _ = word.compare_exchange(*recorded - 1, *recorded, Ordering::Release, Ordering::Relaxed);
        drop(recorded);
        push(block);
    })
}

/// The system's own way to wait for a word.
#[cfg(target_os = "linux")]
pub(super) mod futex {
    use super::{Measure, Plan, once};
    use rustix::thread::futex::{Flags, wait, wake};
    use std::sync::atomic::{AtomicU32, Ordering};

    pub(super) fn wakes<'a>(plan: &Plan) -> Measure<'a> {
        let word = AtomicU32::new(0);
        once(plan, move || wake(&word, Flags::PRIVATE, 1))
    }

    /// How many steps are complete, and whoever waits for the next.
    #[derive(Debug, Default)]
    pub(crate) struct Steps(AtomicU32);

    impl Steps {
        pub(crate) fn complete(&self, step: usize) {
            // Release: the work of the step, to whoever sees it complete.
            self.0.store(step as u32 + 1, Ordering::Release);
            // That nobody waits yet is no error, and there is no other.
            let _ = wake(&self.0, Flags::PRIVATE, 1);
        }

        pub(crate) fn synchronize(&self, step: usize) {
            loop {
                // Acquire: as above.
                let complete = self.0.load(Ordering::Acquire);
                if complete > step as u32 {
                    return;
                }
                // Another value by now, or a signal: looks again.
                let _ = wait(&self.0, Flags::PRIVATE, complete, None);
            }
        }
    }
}
