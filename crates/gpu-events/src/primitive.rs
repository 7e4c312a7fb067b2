//! The few primitives that the core is built on, from `std` or, under `--cfg gpu_events_loom`, from loom.
//!
//! A `cfg` of our own and not loom's usual one: `--cfg loom` reaches every crate of the build, and some of
//! our dependencies answer to it.

#[cfg(gpu_events_loom)]
mod model;

#[cfg(gpu_events_loom)]
pub(crate) use model::{
    AtomicBool, AtomicU32, AtomicU64, Condvar, DashMap, Mutex, MutexGuard, OnceLock, fence,
    thread_local_of_the_model as thread_local,
};
pub(crate) use std::sync::atomic::Ordering;
#[cfg(not(gpu_events_loom))]
pub(crate) use std::{
    sync::{
        Condvar, Mutex, MutexGuard, OnceLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, fence},
    },
    thread_local,
};

/// Of keys that are counted and that nobody chooses: a hash that resists an attacker was a third of what an event by id costs.
#[cfg(not(gpu_events_loom))]
pub(crate) type DashMap<K, V> = dashmap::DashMap<K, V, rustc_hash::FxBuildHasher>;
use std::sync::{PoisonError, TryLockError};

/// Locks; a poisoned lock is as good as any.
///
/// No user code runs under a lock of the core, so a poisoned one can only be a stream's submit lock whose
/// holder panicked in its own code, and what that lock guards is consistent between any two calls.
#[inline]
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// As [`lock`], but `None` where it is held.
#[inline]
pub(crate) fn try_lock<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

/// Starts a named thread that nobody joins.
#[cfg(not(gpu_events_loom))]
pub(crate) fn spawn(name: String, body: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    std::thread::Builder::new().name(name).spawn(body).map(drop)
}

/// Starts a thread of the model.
#[cfg(gpu_events_loom)]
pub(crate) fn spawn(_name: String, body: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    loom::thread::spawn(body);
    Ok(())
}
