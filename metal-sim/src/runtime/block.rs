//! The blocks runtime, for the ABI in <https://clang.llvm.org/docs/Block-ABI-Apple.html>.

use super::class::{Class, MALLOC_BLOCK};
use super::object::OBJECT_ALIGN;
use crate::violation::{fatal, violation};
use objc2::ClassType;
use objc2::runtime::{ClassBuilder, NSObject};
use std::alloc::Layout;
use std::ffi::c_void;
use std::sync::Once;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};

// Flags, as in the ABI. The low 16 bits count references.
const REFERENCES: i32 = 0xffff;
const NEEDS_FREE: i32 = 1 << 24;
const HAS_COPY_DISPOSE: i32 = 1 << 25;
const IS_GLOBAL: i32 = 1 << 28;

#[repr(C)]
struct Block {
    isa: *const Class,
    flags: AtomicI32,
    reserved: i32,
    invoke: Option<unsafe extern "C-unwind" fn(*mut c_void)>,
    descriptor: *const Descriptor,
}

#[repr(C)]
struct Descriptor {
    reserved: usize,
    size: usize,
    // Only there if the flags say so.
    copy: Option<unsafe extern "C-unwind" fn(*mut c_void, *const c_void)>,
    dispose: Option<unsafe extern "C-unwind" fn(*mut c_void)>,
}

static LIVE: AtomicUsize = AtomicUsize::new(0);

/// How many blocks are on the heap.
pub(crate) fn live_blocks() -> usize {
    LIVE.load(Ordering::Relaxed)
}

pub(super) fn define_classes() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for name in [c"__NSStackBlock__", c"__NSMallocBlock__", c"__NSGlobalBlock__"] {
            ClassBuilder::new(name, NSObject::class()).expect("defined once").register();
        }
    });
}

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, OBJECT_ALIGN).expect("a block's size")
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C-unwind" fn _Block_copy(block: *const c_void) -> *mut c_void {
    // SAFETY: the caller passes nil or a block.
    let Some(from) = (unsafe { block.cast::<Block>().as_ref() }) else { return std::ptr::null_mut() };
    let flags = from.flags.load(Ordering::Relaxed);
    if flags & IS_GLOBAL != 0 {
        return block.cast_mut();
    }
    if flags & NEEDS_FREE != 0 {
        // Relaxed: the reference that is being copied keeps it.
        if from.flags.fetch_add(1, Ordering::Relaxed) & REFERENCES == 0 {
            violation("copy of a deallocating block");
        }
        return block.cast_mut();
    }
    // SAFETY: a block has a descriptor, which says how large it is; the new memory is as large, and nobody else has it.
    unsafe {
        let descriptor = &*from.descriptor;
        let new = std::alloc::alloc(layout(descriptor.size)).cast::<Block>();
        if new.is_null() {
            std::alloc::handle_alloc_error(layout(descriptor.size));
        }
        std::ptr::copy_nonoverlapping(block.cast::<u8>(), new.cast(), descriptor.size);
        (*new).isa = &MALLOC_BLOCK;
        (*new).flags = AtomicI32::new(flags & !REFERENCES | NEEDS_FREE | 1);
        if flags & HAS_COPY_DISPOSE != 0
            && let Some(copy) = descriptor.copy
        {
            copy(new.cast(), block);
        }
        LIVE.fetch_add(1, Ordering::Relaxed);
        new.cast()
    }
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C-unwind" fn _Block_release(block: *const c_void) {
    // SAFETY: the caller passes nil or a block.
    let Some(this) = (unsafe { block.cast::<Block>().as_ref() }) else { return };
    let flags = this.flags.load(Ordering::Relaxed);
    if flags & IS_GLOBAL != 0 || flags & NEEDS_FREE == 0 {
        return;
    }
    // Release, and the last one acquires: as for objects.
    match this.flags.fetch_sub(1, Ordering::Release) & REFERENCES {
        0 => fatal("over-release of a block"),
        1 => {
            let _ = this.flags.load(Ordering::Acquire);
            // SAFETY: that was the last reference; the descriptor says how large the block is.
            unsafe {
                let descriptor = &*this.descriptor;
                let size = descriptor.size;
                if flags & HAS_COPY_DISPOSE != 0
                    && let Some(dispose) = descriptor.dispose
                {
                    dispose(block.cast_mut());
                }
                LIVE.fetch_sub(1, Ordering::Relaxed);
                std::alloc::dealloc(block.cast_mut().cast(), layout(size));
            }
        }
        _ => {}
    }
}
