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

/// Of keys that are counted, so that nobody can choose them to collide.
#[cfg(not(gpu_events_loom))]
pub(crate) type DashMap<K, V> = dashmap::DashMap<K, V, BuildNeighbourly>;
#[cfg(not(gpu_events_loom))]
type BuildNeighbourly = std::hash::BuildHasherDefault<Neighbourly>;

/// Hashes a counted number so that a [`DashMap`] keeps neighbours in one shard.
///
/// Threads take numbers in blocks, so each works in shards that other threads hardly ever write to meanwhile. A hash that spreads
/// neighbours spreads every thread's entries over all shards, and then each call fetches a lock and its part of the map
/// from another core.
#[cfg(not(gpu_events_loom))]
#[derive(Default)]
pub(crate) struct Neighbourly(u64);

#[cfg(not(gpu_events_loom))]
impl Neighbourly {
    /// Binary digits of a number that make no difference to its shard. Few, since numbers only go on: each shard is filled by a
    /// run of them in its turn, and keeps the room that it took. And numbers of one thread's that all ask for are not behind
    /// one lock.
    const RUN: u32 = 4;
    /// Where a `DashMap` finds the shard: below the seven bits that each of its tables tells entries apart by, as many as
    /// there are shards. The places of entries come from the lowest bits.
    const SHARD: u64 = 0x01FF_FF00_0000_0000;
}

#[cfg(not(gpu_events_loom))]
impl std::hash::Hasher for Neighbourly {
    fn write_u64(&mut self, number: u64) {
        let mix = |number: u64| std::hash::BuildHasher::hash_one(&rustc_hash::FxBuildHasher, number);
        // Reversed, because the shard is the topmost of these bits, however many they are, and neighbouring runs differ in
        // the lowest.
        let run = (number >> Self::RUN).reverse_bits() >> 7;
        // So that two threads at the same place of their blocks are not in one shard.
        let block = mix(number / crate::pool::IDS);
        self.0 = mix(number) & !Self::SHARD | (run ^ block) & Self::SHARD;
    }

    /// Nothing but numbers is hashed; whatever it is, it has a hash.
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(self.0.rotate_left(8) ^ u64::from(byte));
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

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

#[cfg(all(test, not(gpu_events_loom)))]
mod tests {
    use super::*;
    use crate::pool::IDS;
    use std::{
        collections::{HashMap, HashSet},
        hash::BuildHasher,
    };

    /// As `DashMap` does it, with 64 shards.
    fn shard(number: u64) -> u64 {
        let hash = BuildNeighbourly::default().hash_one(number);
        hash << 7 >> 58
    }

    #[test]
    fn runs_of_numbers_have_a_shard_each_until_there_are_none_left() {
        for block in 40..56 {
            let of_run =
                |run: u64| (0..16).map(|index| shard(block * IDS + run * 16 + index)).collect::<HashSet<_>>();
            let mut all = HashSet::new();
            for run in 0..64 {
                let shards = of_run(run);
                assert_eq!(shards.len(), 1, "of run {run} of block {block}");
                assert!(all.is_disjoint(&shards), "run {run} of block {block} meets another");
                all.extend(shards);
            }
        }
    }

    #[test]
    fn threads_at_the_same_place_of_their_blocks_hardly_ever_meet() {
        for index in [0, 100, 1023] {
            let shards = (40..56).map(|block| shard(block * IDS + index)).collect::<HashSet<_>>();
            // Of 16 that fall anywhere among 64, 14 shards are expected.
            assert!(shards.len() >= 12, "{shards:?}");
        }
    }

    #[test]
    fn numbers_of_one_shard_are_told_apart() {
        let mut tags = HashMap::<u64, u32>::new();
        let mut places = HashMap::<u64, u32>::new();
        let numbers = (0..1 << 20).filter(|&number| shard(number) == 5).collect::<Vec<u64>>();
        for &number in &numbers {
            let hash = BuildNeighbourly::default().hash_one(number);
            *tags.entry(hash >> 57).or_default() += 1;
            *places.entry(hash & 0x7FFF).or_default() += 1;
        }
        assert_eq!(numbers.len(), 1 << 14);
        // Some 128 for each of 128 tags, and a half for each of 32,768 places.
        assert!(tags.len() == 128 && tags.values().all(|&count| count < 256), "{tags:?}");
        assert!(places.values().all(|&count| count <= 8), "{:?}", places.values().max());
    }
}
