//! The few primitives that the core is built on, from `std` or, under `--cfg gpu_events_loom`, from loom.
//!
//! A `cfg` of our own and not loom's usual one: `--cfg loom` reaches every crate of the build, and some of
//! our dependencies answer to it.

/// Locals of a thread of the model: all of these are one thread to the standard library. Loom's own macro takes no
/// `const` block.
#[cfg(gpu_events_loom)]
macro_rules! model_local {
    ($(#[$attr:meta])* static $name:ident: $type:ty = const $init:block;) => {
        loom::thread_local! { $(#[$attr])* static $name: $type = $init; }
    };
}

#[cfg(gpu_events_loom)]
pub(crate) use loom::sync::{
    Condvar, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU32, AtomicU64, fence},
};
pub(crate) use std::sync::atomic::Ordering;
#[cfg(not(gpu_events_loom))]
pub(crate) use std::{
    sync::{
        Condvar, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU32, AtomicU64, fence},
    },
    thread_local,
};

#[cfg(not(gpu_events_loom))]
pub(crate) use dashmap::DashMap;
#[cfg(gpu_events_loom)]
pub(crate) use map::DashMap;
#[cfg(gpu_events_loom)]
pub(crate) use model_local as thread_local;

use std::sync::{PoisonError, TryLockError};

/// As much of dashmap as is used here, over one of loom's locks.
#[cfg(gpu_events_loom)]
mod map {
    use super::{Mutex, MutexGuard, lock};
    use std::{collections::BTreeMap, ops::Deref};

    #[derive(Debug)]
    pub(crate) struct DashMap<K, V>(Mutex<BTreeMap<K, V>>);

    pub(crate) struct Entry<'a, K, V>(MutexGuard<'a, BTreeMap<K, V>>, K);

    impl<K: Ord + Copy, V> DashMap<K, V> {
        pub(crate) fn new() -> Self {
            Self(Mutex::new(BTreeMap::new()))
        }

        pub(crate) fn insert(&self, key: K, value: V) -> Option<V> {
            lock(&self.0).insert(key, value)
        }

        pub(crate) fn remove(&self, key: &K) -> Option<(K, V)> {
            lock(&self.0).remove_entry(key)
        }

        pub(crate) fn get(&self, key: &K) -> Option<Entry<'_, K, V>> {
            let map = lock(&self.0);
            map.contains_key(key).then_some(*key).map(|key| Entry(map, key))
        }

        pub(crate) fn get_mut(&self, key: &K) -> Option<Entry<'_, K, V>> {
            self.get(key)
        }

        pub(crate) fn len(&self) -> usize {
            lock(&self.0).len()
        }
    }

    impl<K: Ord, V> Deref for Entry<'_, K, V> {
        type Target = V;

        fn deref(&self) -> &V {
            &self.0[&self.1]
        }
    }

    impl<K: Ord, V> Entry<'_, K, V> {
        pub(crate) fn value_mut(&mut self) -> &mut V {
            self.0.get_mut(&self.1).expect("the lock is held since it was found")
        }
    }
}

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
