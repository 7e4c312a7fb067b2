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
                for _ in 0..1000 {
                    // SAFETY: as above.
                    unsafe { *RACY.0.get() += 1 };
                }
            });
        }
    });
}
