//! Loom's primitives, with the points at which it has to look at other orders made known to it.
//!
//! Loom decides from each object's *last* access where another order of two threads may matter, and so misses some
//! (seen with 0.7.3; its issues 166 and 392 tell of the first):
//! - a thread that loads an atomic and then stores to it hides an earlier load by another thread, and with it the order
//!   in which that thread loads second: `advance` (load, then exchange) against any `status` was never run;
//! - letting a lock go is no access at all, so a `try_lock` that finds it held was never run.
//!
//! Each object here has a *mark* beside it, which every access exchanges first, relaxed: those all depend on each other,
//! and order nothing else. It costs executions, not truth: loads still see every value that they may.

use loom::sync::atomic::AtomicUsize as Mark;
use std::{
    collections::BTreeMap,
    ops::{Deref, DerefMut},
    sync::{LockResult, PoisonError, TryLockError, TryLockResult, atomic::Ordering},
    time::Duration,
};

pub(crate) use loom::sync::atomic::fence;

fn touch(mark: &Mark) {
    mark.fetch_add(1, Ordering::Relaxed);
}

/// Locals of a thread of the model: all of these are one thread to the standard library. Loom's own macro takes no
/// `const` block.
macro_rules! thread_local_of_the_model {
    ($(#[$attr:meta])* static $name:ident: $type:ty = const $init:block;) => {
        loom::thread_local! { $(#[$attr])* static $name: $type = $init; }
    };
}
pub(crate) use thread_local_of_the_model;

macro_rules! atomic {
    ($name:ident, $value:ty, $($rmw:ident),*) => {
        #[derive(Debug)]
        pub(crate) struct $name(loom::sync::atomic::$name, Mark);

        #[allow(dead_code)]
        impl $name {
            pub(crate) fn new(value: $value) -> Self {
                Self(loom::sync::atomic::$name::new(value), Mark::new(0))
            }

            pub(crate) fn load(&self, order: Ordering) -> $value {
                touch(&self.1);
                self.0.load(order)
            }

            pub(crate) fn store(&self, value: $value, order: Ordering) {
                touch(&self.1);
                self.0.swap(value, order);
            }

            pub(crate) fn compare_exchange(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                touch(&self.1);
                self.0.compare_exchange(current, new, success, failure)
            }

            pub(crate) fn compare_exchange_weak(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                self.compare_exchange(current, new, success, failure)
            }

            $(
                pub(crate) fn $rmw(&self, value: $value, order: Ordering) -> $value {
                    touch(&self.1);
                    self.0.$rmw(value, order)
                }
            )*
        }

        impl Default for $name {
            fn default() -> Self {
                Self::new(<$value>::default())
            }
        }
    };
}

atomic!(AtomicBool, bool, swap);
atomic!(AtomicU32, u32, swap, fetch_add, fetch_sub);
atomic!(AtomicU64, u64, swap, fetch_add, fetch_sub, fetch_or, fetch_max);

#[derive(Debug)]
pub(crate) struct Mutex<T>(loom::sync::Mutex<T>, Mark);

#[derive(Debug)]
pub(crate) struct MutexGuard<'a, T> {
    /// Taken by `drop` and by `Condvar` alone.
    guard: Option<loom::sync::MutexGuard<'a, T>>,
    mark: &'a Mark,
}

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(loom::sync::Mutex::new(value), Mark::new(0))
    }

    pub(crate) fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        let guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        touch(&self.1);
        Ok(MutexGuard { guard: Some(guard), mark: &self.1 })
    }

    pub(crate) fn try_lock(&self) -> TryLockResult<MutexGuard<'_, T>> {
        touch(&self.1);
        match self.0.try_lock() {
            Ok(guard) => Ok(MutexGuard { guard: Some(guard), mark: &self.1 }),
            Err(_) => Err(TryLockError::WouldBlock),
        }
    }
}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.guard.as_ref().expect("there until it is dropped")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.guard.as_mut().expect("there until it is dropped")
    }
}

impl<T> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        if self.guard.is_some() {
            touch(self.mark);
        }
    }
}

#[derive(Debug)]
pub(crate) struct Condvar(loom::sync::Condvar);

impl Condvar {
    pub(crate) fn new() -> Self {
        Self(loom::sync::Condvar::new())
    }

    pub(crate) fn wait<'a, T>(&self, mut guard: MutexGuard<'a, T>) -> LockResult<MutexGuard<'a, T>> {
        touch(guard.mark);
        let inner = guard.guard.take().expect("there until it is dropped");
        guard.guard = Some(self.0.wait(inner).unwrap_or_else(PoisonError::into_inner));
        Ok(guard)
    }

    /// Time does not pass in a model.
    pub(crate) fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        _timeout: Duration,
    ) -> LockResult<(MutexGuard<'a, T>, ())> {
        Ok((self.wait(guard).unwrap_or_else(PoisonError::into_inner), ()))
    }

    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }
}

/// The value is where the standard library keeps it; whether a thread sees that it is there is the model's to say.
#[derive(Debug)]
pub(crate) struct OnceLock<T> {
    value: std::sync::OnceLock<T>,
    there: AtomicBool,
    initializing: Mutex<()>,
}

impl<T> OnceLock<T> {
    pub(crate) fn new() -> Self {
        Self {
            value: std::sync::OnceLock::new(),
            there: AtomicBool::new(false),
            initializing: Mutex::new(()),
        }
    }

    pub(crate) fn get(&self) -> Option<&T> {
        if self.there.load(Ordering::Acquire) { self.value.get() } else { None }
    }

    pub(crate) fn get_or_init(&self, init: impl FnOnce() -> T) -> &T {
        if let Some(value) = self.get() {
            return value;
        }
        let _initializing = super::lock(&self.initializing);
        let value = self.value.get_or_init(init);
        self.there.store(true, Ordering::Release);
        value
    }

    pub(crate) fn take(&mut self) -> Option<T> {
        // Relaxed: nobody else has it.
        self.there.store(false, Ordering::Relaxed);
        self.value.take()
    }
}

/// As much of dashmap as is used here, under one lock.
#[derive(Debug)]
pub(crate) struct DashMap<K, V>(Mutex<BTreeMap<K, V>>);

pub(crate) struct Entry<'a, K, V>(MutexGuard<'a, BTreeMap<K, V>>, K);

impl<K: Ord + Copy, V> DashMap<K, V> {
    pub(crate) fn default() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    pub(crate) fn insert(&self, key: K, value: V) -> Option<V> {
        super::lock(&self.0).insert(key, value)
    }

    pub(crate) fn remove(&self, key: &K) -> Option<(K, V)> {
        super::lock(&self.0).remove_entry(key)
    }

    pub(crate) fn get(&self, key: &K) -> Option<Entry<'_, K, V>> {
        let map = super::lock(&self.0);
        map.contains_key(key).then_some(*key).map(|key| Entry(map, key))
    }

    pub(crate) fn get_mut(&self, key: &K) -> Option<Entry<'_, K, V>> {
        self.get(key)
    }

    pub(crate) fn len(&self) -> usize {
        super::lock(&self.0).len()
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
