//! A data race on purpose: `cargo xtask tsan` runs it first, and trusts ThreadSanitizer only if this is reported.

use std::cell::UnsafeCell;

struct Racy(UnsafeCell<u64>);

// SAFETY: there is none, which is the point. Nothing but the check for ThreadSanitizer ever runs this.
unsafe impl Sync for Racy {}

static RACY: Racy = Racy(UnsafeCell::new(0));

fn main() {
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                // So often, and each time anew, that the two threads can't but meet: one addition of a thousand would be
                // over before the other thread starts, and a race that nobody runs into is not always reported.
                for _ in 0..1_000_000 {
                    let racy = std::hint::black_box(RACY.0.get());
                    // SAFETY: as above.
                    unsafe { *racy += 1 };
                }
            });
        }
    });
}
