//! A count of recordings that only grows, its failure, and who waits for it.
//!
//! The one hard piece of concurrent code of this crate. It knows no driver, no clock and no user code.
#![doc = include_str!("README.md")]

pub(crate) mod relay;
mod waiters;

pub(crate) use relay::Relay;
pub(crate) use waiters::{Ticket, Waiter};

use crate::{
    callback::CallbackCell,
    error::Error,
    primitive::{AtomicU64, Mutex, Ordering, lock},
};
use std::{sync::Arc, task::Waker};
use waiters::Waiters;

/// Somebody is in the list of waiters, so whoever completes a position has to look there.
const WAITERS: u64 = 1 << 0;
/// Some positions will never complete; the lock knows from which on. With it set, the word only changes under
/// the lock.
const FAILED: u64 = 1 << 1;
/// The completed position is above the flags. 62 bits: at one recording a nanosecond they last 146 years.
const SHIFT: u32 = 2;
/// The last position that there is. An event's state has as much room as the word has.
pub(crate) const LAST: u64 = u64::MAX >> SHIFT;

/// Where a position stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    Pending,
    Complete,
    Failed,
}

/// What came of a registration.
#[derive(Debug)]
pub(crate) enum Registered<W> {
    /// The position is complete; the waiter comes back unused.
    Reached(W),
    /// The position will never complete.
    Failed(W, Error),
    /// The waiter will be told.
    Parked(Ticket),
}

/// See the module.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Timeline {
    inner: Mutex<Inner>,
    /// `completed << SHIFT | FAILED | WAITERS`. Last, where the lane goes on with what else is hot.
    word: AtomicU64,
}

#[derive(Debug, Default)]
struct Inner {
    waiters: Waiters,
    /// Each failure and the position from which it holds, later ones only for earlier positions: the first
    /// failure wins wherever it holds (R26). Almost always empty or of one entry.
    failures: Vec<(u64, Error)>,
}

impl Inner {
    /// The first position that failed; beyond all positions while none has.
    fn failed_from(&self) -> u64 {
        self.failures.last().map_or(u64::MAX, |(from, _)| *from)
    }

    /// Delivers the callbacks of positions that are complete, and takes out the others who wait for one. Before a
    /// failure is told, so that it does not overtake them (R17).
    fn take_reached(&mut self, completed: u64) -> Vec<Waiter> {
        let mut reached = Vec::new();
        while let Ok(waiter) = self.waiters.pop_reached(completed) {
            match waiter {
                Waiter::Callback(callback) => callback.deliver(None),
                waiter => reached.push(waiter),
            }
        }
        reached
    }

    fn failure_at(&self, position: u64) -> Option<&Error> {
        // The last entry holds from the lowest position on; the first one that covers `position` was first.
        self.failures.iter().find(|(from, _)| *from <= position).map(|(_, error)| error)
    }
}

impl Timeline {
    pub(crate) fn new() -> Self {
        Self::starting_at(0)
    }

    /// A timeline whose positions up to `completed` count as complete.
    pub(crate) fn starting_at(completed: u64) -> Self {
        Self { word: AtomicU64::new(completed << SHIFT), inner: Mutex::new(Inner::default()) }
    }

    #[inline]
    pub(crate) fn completed(&self) -> u64 {
        // Acquire: pairs with the release in `advance`, so that whoever sees a position complete also sees the
        // memory effects of the work before it (R8).
        self.word.load(Ordering::Acquire) >> SHIFT
    }

    #[inline]
    pub(crate) fn is_failed(&self) -> bool {
        // Relaxed: a hint. Who acts on it takes the lock.
        self.word.load(Ordering::Relaxed) & FAILED != 0
    }

    /// Whether recording `position` takes more than to record it: some position has failed, or there is no such position.
    #[inline]
    pub(crate) fn is_special(&self, position: u64) -> bool {
        // Relaxed: as in `is_failed`. One branch for both, on the way of every recording.
        (self.word.load(Ordering::Relaxed) & FAILED) | (position >> LAST.count_ones()) != 0
    }

    /// Whether `position` is neither complete nor possibly failed.
    #[inline]
    pub(crate) fn is_pending(&self, position: u64) -> bool {
        // Relaxed: who is told "pending" reads nothing on the strength of it.
        let word = self.word.load(Ordering::Relaxed);
        word >> SHIFT < position && word & FAILED == 0
    }

    #[inline]
    pub(crate) fn progress(&self, position: u64) -> Progress {
        // Acquire: as in `completed`.
        let word = self.word.load(Ordering::Acquire);
        if word >> SHIFT >= position {
            Progress::Complete
        } else if word & FAILED == 0 {
            Progress::Pending
        } else {
            self.progress_of_failed(position)
        }
    }

    #[cold]
    fn progress_of_failed(&self, position: u64) -> Progress {
        let inner = lock(&self.inner);
        if self.completed() >= position {
            Progress::Complete
        } else if inner.failed_from() <= position {
            Progress::Failed
        } else {
            Progress::Pending
        }
    }

    /// The failure of `position`, if it failed.
    pub(crate) fn failure_of(&self, position: u64) -> Option<Error> {
        if !self.is_failed_now() {
            return None;
        }
        let inner = lock(&self.inner);
        if self.completed() >= position { None } else { inner.failure_at(position).cloned() }
    }

    /// The first failure, wherever it holds.
    pub(crate) fn failure(&self) -> Option<Error> {
        if !self.is_failed_now() {
            return None;
        }
        lock(&self.inner).failures.first().map(|(_, error)| error.clone())
    }

    fn is_failed_now(&self) -> bool {
        // Acquire: pairs with `fail`; a caller that was told of the failure must find it here.
        self.word.load(Ordering::Acquire) & FAILED != 0
    }

    /// Marks every position up to `to` as complete and tells who waits for them. Monotonic: a lower value than
    /// before does nothing. From any thread, any number of them. Positions that failed stay failed.
    #[inline]
    pub(crate) fn advance(&self, to: u64) {
        // Relaxed: only a first guess for the exchange below.
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            if word & FAILED != 0 {
                return self.advance_failed(to);
            }
            if word >> SHIFT >= to {
                return;
            }
            // Release: the work up to `to` happens before whoever sees it complete. An exchange and not a store,
            // because a failure or a registration may come between, and so that an earlier advance by another
            // thread stays in the release sequence. Clears WAITERS: from here on they are ours to tell.
            match self.word.compare_exchange_weak(word, to << SHIFT, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => word = now,
            }
        }
        if word & WAITERS != 0 {
            self.drain();
        }
    }

    /// Advances up to where the failure begins.
    #[cold]
    fn advance_failed(&self, to: u64) {
        {
            let inner = lock(&self.inner);
            let to = to.min(inner.failed_from() - 1);
            // Acquire and release: goes on with what earlier advances released.
            let word = self.word.load(Ordering::Acquire);
            if word >> SHIFT >= to {
                return;
            }
            self.word.store(to << SHIFT | FAILED | word & WAITERS, Ordering::Release);
        }
        self.drain();
    }

    /// Tells everyone whose position is reached.
    pub(crate) fn drain(&self) {
        let mut first = None;
        let mut rest = Vec::new();
        {
            let mut inner = lock(&self.inner);
            // Acquire: pairs with the advances whose waiters we tell; they will read what that work wrote.
            let mut completed = self.word.load(Ordering::Acquire) >> SHIFT;
            loop {
                match inner.waiters.pop_reached(completed) {
                    Ok(Waiter::Callback(callback)) => callback.deliver(None),
                    // Almost always there is one: no allocation for it.
                    Ok(waiter) if first.is_none() => first = Some(waiter),
                    Ok(waiter) => rest.push(waiter),
                    Err(None) => break,
                    Err(Some(next)) => {
                        // Somebody stays behind, and the flag is gone: put it back, and look once more, because an
                        // advance that came before the flag was back did not see it. Acquire: that advance's work.
                        completed = self.word.fetch_or(WAITERS, Ordering::AcqRel) >> SHIFT;
                        if next > completed {
                            break;
                        }
                    }
                }
            }
        }
        if let Some(waiter) = first {
            waiter.fire(None);
        }
        for waiter in rest {
            waiter.fire(None);
        }
    }

    /// Fails every position from `from` on that is not complete, and tells who waits for one of them.
    ///
    /// Returns the position from which the failure holds, or `None` where an earlier failure covers it all: the
    /// first one wins. A later failure of earlier positions holds for those, so that none of them hangs.
    pub(crate) fn fail(&self, from: u64, error: Error) -> Option<u64> {
        let (at, reached, told);
        {
            let mut inner = lock(&self.inner);
            let failed_from = inner.failed_from();
            if from >= failed_from {
                return None;
            }
            // From here on nobody advances but under the lock. AcqRel: whoever sees the flag was told no less than
            // we were.
            let completed = self.word.fetch_or(FAILED, Ordering::AcqRel) >> SHIFT;
            // Completion that may have been observed stays.
            at = from.max(completed + 1);
            if at >= failed_from {
                return None;
            }
            inner.failures.push((at, error.clone()));
            reached = inner.take_reached(completed);
            let mut rest = Vec::new();
            // Those from the earlier failure on were told of that one.
            for waiter in inner.waiters.split_from(at) {
                match waiter {
                    Waiter::Callback(callback) => callback.deliver(Some(error.clone())),
                    waiter => rest.push(waiter),
                }
            }
            told = rest;
        }
        for waiter in reached {
            waiter.fire(None);
        }
        for waiter in told {
            waiter.fire(Some(&error));
        }
        Some(at)
    }

    /// Has whoever advances look into the list of waiters, and says what the word was. Under the lock, before there is an
    /// entry.
    fn flag_waiters(&self) -> u64 {
        // Acquire: if the position is reached, the caller goes on and reads what the work wrote. Where the flag is there
        // already, to set it again would take the line from all who read the word. Whoever clears it takes the lock
        // afterwards: had that been before us, we would see it cleared, so it is to come, and will find our entry.
        let word = self.word.load(Ordering::Acquire);
        if word & WAITERS != 0 {
            return word;
        }
        // AcqRel: as above. The flag is set before the entry is there, but under the lock that whoever sees it must take.
        self.word.fetch_or(WAITERS, Ordering::AcqRel)
    }

    /// Has `waiter` told once `position` is settled. `since`: now, in nanoseconds of the host clock.
    pub(crate) fn register<W: Into<Waiter>>(&self, position: u64, waiter: W, since: u64) -> Registered<W> {
        if self.completed() >= position {
            return Registered::Reached(waiter);
        }
        let mut inner = lock(&self.inner);
        let word = self.flag_waiters();
        if word >> SHIFT >= position {
            return Registered::Reached(waiter);
        }
        if word & FAILED != 0
            && let Some(error) = inner.failure_at(position)
        {
            return Registered::Failed(waiter, error.clone());
        }
        Registered::Parked(inner.waiters.insert(position, waiter.into(), since))
    }

    /// As [`register`](Self::register) for a callback, which is delivered, here or later, after all callbacks of
    /// earlier positions that are complete.
    pub(crate) fn register_callback(
        &self,
        position: u64,
        callback: &Arc<CallbackCell>,
        since: u64,
    ) -> Option<Ticket> {
        let ticket;
        {
            let mut inner = lock(&self.inner);
            let word = self.flag_waiters();
            let failure = if word & FAILED != 0 { inner.failure_at(position).cloned() } else { None };
            if let Some(error) = failure.filter(|_| word >> SHIFT < position) {
                let reached = inner.take_reached(word >> SHIFT);
                callback.clone().deliver(Some(error));
                drop(inner);
                for waiter in reached {
                    waiter.fire(None);
                }
                return None;
            }
            ticket = inner.waiters.insert(position, Waiter::Callback(callback.clone()), since);
            if word >> SHIFT < position {
                return Some(ticket);
            }
        }
        // Complete already. Through the list nevertheless: an advance may just be on its way to deliver those of
        // earlier positions, and they come first.
        self.drain();
        None
    }

    /// Takes a waiter back, unless it was told already.
    pub(crate) fn cancel(&self, ticket: Ticket) -> Option<Waiter> {
        lock(&self.inner).waiters.remove(ticket)
    }

    /// Replaces the waker of a future that is polled again. False when it was woken already.
    pub(crate) fn update_waker(&self, ticket: Ticket, waker: &Waker) -> bool {
        match lock(&self.inner).waiters.get_mut(ticket) {
            None => return false,
            Some(Waiter::Waker(registered)) if registered.will_wake(waker) => return true,
            Some(_) => {}
        }
        // Cloning and dropping a waker run the executor's code: with no lock held.
        let mut latest = Waiter::Waker(waker.clone());
        match lock(&self.inner).waiters.get_mut(ticket) {
            None => return false,
            Some(waiter) => std::mem::swap(waiter, &mut latest),
        }
        drop(latest);
        true
    }

    /// Calls `visit` with the position, entry and time of everyone who waits. For stall reports; the lock is held.
    pub(crate) fn for_each_waiter(&self, mut visit: impl FnMut(u64, &Waiter, u64)) {
        let inner = lock(&self.inner);
        inner.waiters.iter().for_each(|(position, entry)| visit(position, &entry.waiter, entry.since));
    }

    /// The last position that somebody waits for.
    pub(crate) fn last_waited_for(&self) -> Option<u64> {
        lock(&self.inner).waiters.last()
    }

    /// Whether somebody waits. Exact only where nobody else can register.
    pub(crate) fn has_waiters(&self) -> bool {
        !lock(&self.inner).waiters.is_empty()
    }
}
