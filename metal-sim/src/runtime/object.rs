//! Objects in memory: allocation, and the quarantine of dead ones.

use super::class::{CONSTANT_STRING, Class};
use std::alloc::Layout;
use std::ffi::{CStr, c_char};
use std::ptr::{self, null_mut};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

/// The alignment of objects, and so the largest that an instance variable may ask for.
pub(super) const OBJECT_ALIGN: usize = 16;

/// An object: what a pointer to one points to. Instance variables follow.
#[repr(C)]
pub(crate) struct Object {
    pub(super) isa: AtomicPtr<Class>,
}

/// What comes before an object in memory.
#[repr(C, align(16))]
pub(super) struct Header {
    /// References to it; [`IMMORTAL`] and more for constants, [`DEAD`] and more once deallocated.
    pub(super) refs: AtomicUsize,
    /// The size of the allocation, header included.
    size: usize,
    /// In the quarantine: the object that died before it.
    next: AtomicPtr<Header>,
    /// Whether a weak reference was ever made.
    pub(super) weak: AtomicBool,
}

/// The count that constants start with: no program gets it down to 0.
const IMMORTAL: usize = 1 << 60;
/// The count of a deallocated object. Half of it is the limit, so that stray retains and releases leave it dead.
pub(super) const DEAD: usize = 1 << 62;

pub(super) fn is_dead(refs: usize) -> bool {
    refs > DEAD / 2
}

/// The header of an object.
///
/// # Safety
///
/// It must be an object of this runtime, alive or in the quarantine, and no class or block.
pub(super) unsafe fn header<'a>(object: *mut Object) -> &'a Header {
    // SAFETY: every such object follows its header.
    unsafe { &*object.cast::<Header>().sub(1) }
}

/// The class of an object that is known to have one.
pub(crate) fn object_class(object: &Object) -> &'static Class {
    // SAFETY: an object's isa is a class, and classes live forever. Relaxed: whoever has the object was handed it by
    // whoever wrote the isa.
    unsafe { &*object.isa.load(Ordering::Relaxed) }.realize()
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn class_createInstance(class: *const Class, extra: usize) -> *mut Object {
    // SAFETY: the caller passes a class; classes live forever.
    let class: &'static Class = unsafe { &*class };
    let size = size_of::<Header>() + class.instance_size() + extra;
    let layout = Layout::from_size_align(size, OBJECT_ALIGN).expect("an object's size");
    // SAFETY: the layout is not empty.
    let header = unsafe { std::alloc::alloc_zeroed(layout) }.cast::<Header>();
    if header.is_null() {
        std::alloc::handle_alloc_error(layout);
    }
    class.count(1);
    let fresh =
        Header { refs: AtomicUsize::new(1), size, next: AtomicPtr::default(), weak: AtomicBool::new(false) };
    // SAFETY: freshly allocated, aligned, and large enough for a header and an object.
    unsafe {
        header.write(fresh);
        let object = header.add(1).cast::<Object>();
        (*object).isa.store(ptr::from_ref(class).cast_mut(), Ordering::Relaxed);
        object
    }
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn object_dispose(object: *mut Object) -> *mut Object {
    if !object.is_null() {
        // SAFETY: the caller passes an object that it is done with.
        let (class, header) = unsafe { (object_class(&*object), header(object)) };
        class.count(-1);
        header.refs.store(DEAD, Ordering::Relaxed);
        bury(ptr::from_ref(header).cast_mut());
    }
    null_mut()
}

// ---------------------------------------------------------------------------------------------------- quarantine
// Dead objects, newest first, and those that died before the last sweep. A burial only releases, it never acquires:
// threads that drop objects must not get ordered by that. The isa stays, so that messages can name the class.
static GRAVES: AtomicPtr<Header> = AtomicPtr::new(null_mut());
static OLD_GRAVES: AtomicPtr<Header> = AtomicPtr::new(null_mut());
static BURIED: AtomicUsize = AtomicUsize::new(0);
/// A dead object is noticed for at least as many deaths after its own.
const QUARANTINE: usize = 1 << 16;

fn bury(header: *mut Header) {
    let mut last = GRAVES.load(Ordering::Relaxed);
    loop {
        // SAFETY: nobody else buries or frees this one.
        unsafe { &(*header).next }.store(last, Ordering::Relaxed);
        // Release: whoever sweeps sees all that was done to the object before.
        match GRAVES.compare_exchange_weak(last, header, Ordering::Release, Ordering::Relaxed) {
            Ok(_) => break,
            Err(now) => last = now,
        }
    }
    if BURIED.fetch_add(1, Ordering::Relaxed) % QUARANTINE == QUARANTINE - 1 {
        // Acquire: the burials. AcqRel: as well, and hand them to the next sweep.
        let recent = GRAVES.swap(null_mut(), Ordering::Acquire);
        let mut old = OLD_GRAVES.swap(recent, Ordering::AcqRel);
        while !old.is_null() {
            // SAFETY: it has been in the quarantine for a whole round, and this thread alone took the list.
            unsafe {
                let next = (*old).next.load(Ordering::Relaxed);
                let layout = Layout::from_size_align_unchecked((*old).size, OBJECT_ALIGN);
                std::alloc::dealloc(old.cast(), layout);
                old = next;
            }
        }
    }
}

/// A string object that is there before `main`: for the constants that compiled code refers to by symbol.
#[repr(C)]
pub(crate) struct ConstantString {
    header: Header,
    object: Object,
    text: *const c_char,
}

// SAFETY: the text is a constant, everything else is `Sync` by itself.
unsafe impl Sync for ConstantString {}

impl ConstantString {
    pub(crate) const fn new(text: &'static CStr) -> Self {
        Self {
            header: Header {
                refs: AtomicUsize::new(IMMORTAL),
                size: 0,
                next: AtomicPtr::new(null_mut()),
                weak: AtomicBool::new(false),
            },
            object: Object { isa: AtomicPtr::new(&raw const CONSTANT_STRING as *mut Class) },
            text: text.as_ptr(),
        }
    }

    /// The object: what a pointer to an `NSString` points to.
    pub(crate) const fn object(&'static self) -> &'static Object {
        &self.object
    }

    /// The text of the constant string at `object`.
    ///
    /// # Safety
    ///
    /// `object` must be an instance of `SimConstantString`.
    pub(crate) unsafe fn text(object: *const Object) -> &'static CStr {
        let offset = std::mem::offset_of!(Self, text) - std::mem::offset_of!(Self, object);
        // SAFETY: all instances of that class are statics of this type.
        unsafe { CStr::from_ptr(*object.byte_add(offset).cast::<*const c_char>()) }
    }
}
