//! Native stand-ins for compute kernels.
//!
//! A pipeline of a function finds its stand-in by name, whatever the function's source says.

use crate::metal::Slot;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

/// How many threads a dispatch runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Threads in x, y and z.
    pub threads: [usize; 3],
    /// Threads of a threadgroup in x, y and z.
    pub threads_per_threadgroup: [usize; 3],
}

impl Grid {
    /// How many threads there are in all.
    #[must_use]
    pub fn count(&self) -> usize {
        self.threads.iter().product()
    }
}

/// A number that a kernel reads or writes.
pub trait Scalar: Copy + sealed::Sealed {}

mod sealed {
    pub trait Sealed {}
}

macro_rules! scalars {
    ($($t:ty)*) => {
        $(impl sealed::Sealed for $t {}
        impl Scalar for $t {})*
    };
}
scalars!(u8 i8 u16 i16 u32 i32 u64 i64 f32 f64);

/// What is bound to a kernel's buffer arguments.
///
/// Accesses are plain: two command buffers that touch the same memory with no event between them are a data race, and
/// ThreadSanitizer says so.
#[derive(Debug)]
pub struct Bindings<'a> {
    slots: &'a [Slot],
}

impl<'a> Bindings<'a> {
    pub(crate) fn new(slots: &'a [Slot]) -> Self {
        Self { slots }
    }

    fn slot(&self, index: usize) -> (*mut u8, usize, bool) {
        match self.slots.get(index) {
            Some(Slot::Buffer(memory, offset)) => {
                (memory.state().pointer().wrapping_add(*offset), memory.state().length() - offset, true)
            }
            Some(Slot::Bytes(bytes)) => (bytes.as_ptr().cast_mut(), bytes.len(), false),
            None | Some(Slot::Empty) => {
                crate::violation::fatal(format!("a kernel uses buffer {index}: nothing is bound"))
            }
        }
    }

    fn at<T: Scalar>(&self, index: usize, i: usize, write: bool) -> *mut T {
        let (pointer, length, writable) = self.slot(index);
        if i.checked_add(1).and_then(|n| n.checked_mul(size_of::<T>())).is_none_or(|end| end > length) {
            crate::violation::fatal(format!(
                "a kernel uses element {i} of buffer {index}, which has {length} bytes"
            ));
        }
        if write && !writable {
            crate::violation::fatal(format!("a kernel writes to the bytes bound at {index}"));
        }
        pointer.cast::<T>().wrapping_add(i)
    }

    /// How many bytes are bound at `index`, from the offset on.
    #[must_use]
    pub fn length(&self, index: usize) -> usize {
        self.slot(index).1
    }

    /// Reads element `i` of what is bound at `index`.
    #[must_use]
    pub fn read<T: Scalar>(&self, index: usize, i: usize) -> T {
        // SAFETY: in bounds, and any bits are a number.
        unsafe { self.at::<T>(index, i, false).read_unaligned() }
    }

    /// Writes element `i` of what is bound at `index`.
    pub fn write<T: Scalar>(&mut self, index: usize, i: usize, value: T) {
        // SAFETY: in bounds, and in a buffer, which anybody may write to.
        unsafe { self.at::<T>(index, i, true).write_unaligned(value) }
    }
}

pub(crate) type Native = dyn Fn(&Grid, &mut Bindings<'_>) + Send + Sync;

/// A registered stand-in.
#[derive(Clone)]
pub(crate) struct Kernel(pub(crate) Arc<Native>);

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Kernel").finish_non_exhaustive()
    }
}

static KERNELS: LazyLock<Mutex<HashMap<String, Kernel>>> = LazyLock::new(Mutex::default);

/// Gives the function `name` a native stand-in, for pipelines made from now on. It is called once for each dispatch,
/// for the whole grid.
///
/// It runs on one of the simulated GPU's threads: it should keep to its arguments and atomics. A panic in it ends the
/// process.
pub fn register(name: &str, kernel: impl Fn(&Grid, &mut Bindings<'_>) + Send + Sync + 'static) {
    KERNELS.lock().unwrap_or_else(PoisonError::into_inner).insert(name.into(), Kernel(Arc::new(kernel)));
}

pub(crate) fn find(name: &str) -> Option<Kernel> {
    KERNELS.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
}
