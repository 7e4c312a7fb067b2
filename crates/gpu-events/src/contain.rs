//! Running what users gave us so that a panic in it goes no further.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
};

/// Runs `user`. A panic in it has been reported by the panic hook by the time that it is caught here; nobody else may
/// lose their news over it (R17).
pub(crate) fn contain(user: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(user)) {
        discard(payload);
    }
}

/// Drops what a panic carried, which is user code as well.
pub(crate) fn discard(payload: Box<dyn Any + Send>) {
    if let Err(again) = catch_unwind(AssertUnwindSafe(move || drop(payload))) {
        // Whoever panics in the drop of a panic's payload does not get a third try.
        std::mem::forget(again);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("in the drop of the payload");
        }
    }

    #[test]
    fn nothing_gets_out() {
        contain(|| std::panic::panic_any(Bomb));
        contain(|| panic!("plain"));
    }
}
