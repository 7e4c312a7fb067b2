//! What comes in and goes out by pointer.

use crate::status::{Failure, Result, c_string};
use std::{
    any::Any,
    ffi::{CStr, c_char, c_void},
    ptr::NonNull,
    sync::Arc,
};

/// Where the caller wants a result. Looked at before anything is done that only the result could undo.
pub(crate) struct Out<T>(NonNull<T>);

impl<T> Out<T> {
    /// # Safety
    /// `to` is null, or good for writing a `T` until the call returns.
    pub(crate) unsafe fn new(to: *mut T, argument: &str) -> Result<Self> {
        NonNull::new(to).map(Self).ok_or_else(|| Failure::null(argument))
    }

    pub(crate) fn put(self, value: T) {
        // SAFETY: good for writing, as `new` was promised.
        unsafe { self.0.write(value) };
    }
}

/// Writes a result, if the caller wants it at all.
///
/// # Safety
/// `to` is null, or good for writing a `T`.
pub(crate) unsafe fn put_if_wanted<T>(to: *mut T, value: T) {
    if !to.is_null() {
        // SAFETY: not null, and so good for writing.
        unsafe { to.write(value) };
    }
}

/// A text of the caller's. What is no UTF-8 in it is replaced.
///
/// # Safety
/// `text` is null, or a string that ends in a NUL.
pub(crate) unsafe fn text(text: *const c_char, argument: &str) -> Result<String> {
    // SAFETY: as promised.
    unsafe { text_if_any(text) }.ok_or_else(|| Failure::null(argument))
}

/// As [`text`], where null means that there is none.
///
/// # Safety
/// As [`text`].
pub(crate) unsafe fn text_if_any(text: *const c_char) -> Option<String> {
    if text.is_null() {
        return None;
    }
    // SAFETY: not null, and so a string.
    let text = unsafe { CStr::from_ptr(text) };
    Some(text.to_string_lossy().into_owned())
}

/// Writes a text into the caller's memory, as much as there is room for, and how long it is.
///
/// # Safety
/// `buffer` is null, or good for writing `capacity` bytes; `length` is null, or good for writing.
pub(crate) unsafe fn put_text(
    text: &str,
    buffer: *mut c_char,
    capacity: usize,
    length: *mut usize,
) -> Result<()> {
    let text = c_string(text);
    let bytes = text.as_bytes();
    if !buffer.is_null() && capacity > 0 {
        let mut fits = bytes.len().min(capacity - 1);
        // Not through the middle of a character: bytes of that kind go on with one.
        while fits < bytes.len() && fits > 0 && bytes[fits] & 0b1100_0000 == 0b1000_0000 {
            fits -= 1;
        }
        // SAFETY: `fits` is less than `capacity`, which the buffer is good for.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), buffer.cast::<u8>(), fits) };
        // SAFETY: `fits` is less than `capacity`.
        let end = unsafe { buffer.add(fits) };
        // SAFETY: within the buffer.
        unsafe { end.write(0) };
    } else if length.is_null() {
        return Err(Failure::null("buffer"));
    }
    // SAFETY: as promised.
    unsafe { put_if_wanted(length, bytes.len()) };
    Ok(())
}

/// The caller's array; empty if it has no members, whatever the pointer.
///
/// # Safety
/// `from` is null, or good for reading `count` values, which nobody changes meanwhile.
pub(crate) unsafe fn array<'a, T>(from: *const T, count: usize, argument: &str) -> Result<&'a [T]> {
    if count == 0 {
        return Ok(&[]);
    }
    if from.is_null() {
        return Err(Failure::null(argument));
    }
    if count > isize::MAX as usize / size_of::<T>().max(1) {
        return Err(Failure::no_such_size(argument, count));
    }
    // SAFETY: not null, of a size that memory can have, and good for reading so many.
    Ok(unsafe { std::slice::from_raw_parts(from, count) })
}

/// What the caller wants back with every call of a function of his.
#[derive(Clone, Copy)]
pub(crate) struct UserData(*mut c_void);

// SAFETY: this library only passes it on; the interface says on which threads, and that it must be good there.
unsafe impl Send for UserData {}
// SAFETY: as above.
unsafe impl Sync for UserData {}

impl UserData {
    pub(crate) fn new(data: *mut c_void) -> Self {
        Self(data)
    }

    pub(crate) fn get(self) -> *mut c_void {
        self.0
    }
}

/// A function that lets go of what the caller gave to be kept. It is called once, from any thread; never, where a driver may go on
/// using what is kept (its device was closed, or is lost), or where the process ends first.
pub type ReleaseFn = Option<unsafe extern "C" fn(user_data: *mut c_void)>;

/// Something of the caller's, which is let go of when this is dropped.
pub(crate) struct Kept {
    release: unsafe extern "C" fn(*mut c_void),
    data: UserData,
}

impl Kept {
    pub(crate) fn new(release: ReleaseFn, data: *mut c_void) -> Option<Self> {
        release.map(|release| Self { release, data: UserData::new(data) })
    }

    /// For those who keep something in any case.
    pub(crate) fn alive(release: ReleaseFn, data: *mut c_void) -> Arc<dyn Any + Send + Sync> {
        match Self::new(release, data) {
            Some(kept) => Arc::new(kept),
            None => Arc::new(()),
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // SAFETY: the caller's function, called once, with what it was given for; the interface says on which threads.
        unsafe { (self.release)(self.data.get()) };
    }
}
