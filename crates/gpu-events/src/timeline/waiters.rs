//! Who waits for a position, in order of position.

use super::Relay;
use crate::{callback::CallbackCell, contain::contain, error::Error, wait::ThreadWaiter};
use std::{collections::BTreeMap, sync::Arc, task::Waker};

/// Somebody to tell when a position is settled.
#[derive(Debug)]
pub(crate) enum Waiter {
    /// A thread that blocks in a host wait.
    Thread(Arc<ThreadWaiter>),
    /// A future.
    Waker(Waker),
    /// A user's callback. It is handed to the device's callback thread *under* the timeline's lock, which is
    /// what keeps callbacks of one stream in order.
    Callback(Arc<CallbackCell>),
    /// Another lane: a parked strand, a gate, a link that passes failure on.
    Relay(Arc<dyn Relay>),
}

impl From<Arc<ThreadWaiter>> for Waiter {
    fn from(thread: Arc<ThreadWaiter>) -> Self {
        Self::Thread(thread)
    }
}

impl From<Waker> for Waiter {
    fn from(waker: Waker) -> Self {
        Self::Waker(waker)
    }
}

impl<R: Relay> From<Arc<R>> for Waiter {
    fn from(relay: Arc<R>) -> Self {
        Self::Relay(relay)
    }
}

impl Waiter {
    /// Tells the waiter. Called with no lock held.
    #[inline]
    pub(super) fn fire(self, failure: Option<&Error>) {
        match self {
            Self::Relay(relay) => super::relay::run(relay, failure),
            Self::Thread(thread) => thread.wake(),
            Self::Waker(waker) => contain(|| waker.wake()),
            Self::Callback(_) => unreachable!("callbacks are delivered under the lock"),
        }
    }
}

/// Names an entry, to take it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket {
    pub(super) position: u64,
    serial: u64,
}

/// One entry: who, and since when (nanoseconds of the host clock, for stall reports).
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) waiter: Waiter,
    pub(crate) since: u64,
}

/// Entries in order of position, and of registration within one.
///
/// Nearly always there is one waiter at most: a stream that waits for this one. It has a place of its own, so that a
/// hand-over from stream to stream allocates nothing.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    /// Comes before all of `rest`. May be empty while `rest` is not.
    first: Option<(Ticket, Entry)>,
    rest: BTreeMap<Ticket, Entry>,
    serial: u64,
}

impl Waiters {
    pub(super) fn insert(&mut self, position: u64, waiter: Waiter, since: u64) -> Ticket {
        let ticket = Ticket { position, serial: self.serial };
        self.serial += 1;
        let mut new = (ticket, Entry { waiter, since });
        match &mut self.first {
            // Also where others wait for later positions: the host for the end of a long hand-over, say.
            None if self.rest.first_key_value().is_none_or(|(next, _)| ticket < *next) => {
                self.first = Some(new);
                return ticket;
            }
            Some(first) if ticket < first.0 => std::mem::swap(first, &mut new),
            _ => {}
        }
        self.rest.insert(new.0, new.1);
        ticket
    }

    pub(super) fn remove(&mut self, ticket: Ticket) -> Option<Waiter> {
        let entry = match self.first.take_if(|(first, _)| *first == ticket) {
            Some((_, entry)) => Some(entry),
            None => self.rest.remove(&ticket),
        };
        entry.map(|entry| entry.waiter)
    }

    pub(super) fn get_mut(&mut self, ticket: Ticket) -> Option<&mut Waiter> {
        let entry = match &mut self.first {
            Some((first, entry)) if *first == ticket => Some(entry),
            _ => self.rest.get_mut(&ticket),
        };
        entry.map(|entry| &mut entry.waiter)
    }

    /// Takes the first entry if its position is reached; else says where the first one is.
    #[inline]
    pub(super) fn pop_reached(&mut self, completed: u64) -> Result<Waiter, Option<u64>> {
        if let Some((ticket, _)) = &self.first {
            let position = ticket.position;
            return match self.first.take_if(|_| position <= completed) {
                Some((_, entry)) => Ok(entry.waiter),
                None => Err(Some(position)),
            };
        }
        match self.rest.first_entry() {
            None => Err(None),
            Some(first) if first.key().position <= completed => Ok(first.remove().waiter),
            Some(first) => Err(Some(first.key().position)),
        }
    }

    /// Takes every entry at or after `position`, in order.
    pub(super) fn split_from(&mut self, position: u64) -> impl Iterator<Item = Waiter> + use<> {
        let first = self.first.take_if(|(first, _)| first.position >= position);
        let rest = self.rest.split_off(&Ticket { position, serial: 0 });
        first.into_iter().chain(rest).map(|(_, entry)| entry.waiter)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none() && self.rest.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Entry)> {
        let first = self.first.iter().map(|(ticket, entry)| (ticket, entry));
        first.chain(&self.rest).map(|(ticket, entry)| (ticket.position, entry))
    }
}
