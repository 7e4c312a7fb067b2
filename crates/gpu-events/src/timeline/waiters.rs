//! Who waits for a position, in order of position.

use super::Relay;
use crate::{callback::CallbackCell, contain::contain, error::Error, lane::Link, wait::ThreadWaiter};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    task::Waker,
};

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
    /// Another lane that is only to be told of a failure.
    Link(Link),
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

impl From<Link> for Waiter {
    fn from(link: Link) -> Self {
        Self::Link(link)
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
            Self::Link(link) => {
                if failure.is_some() {
                    super::relay::run(Arc::new(link), failure);
                }
            }
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
/// hand-over from stream to stream allocates nothing, and an idle stream weighs little.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    /// Comes before all others. May be empty while they are not.
    first: Option<(Ticket, Entry)>,
    rest: Option<Box<Rest>>,
    serial: u64,
}

/// Nearly always who comes later waits for a later position, or the same, and goes to the end of a queue, which costs a
/// fifth of what a tree does.
#[derive(Debug, Default)]
struct Rest {
    /// In order. Those who were taken back leave a gap, but none at either end.
    queue: VecDeque<(Ticket, Option<Entry>)>,
    gaps: usize,
    /// Who came for an earlier position than the queue's last.
    late: BTreeMap<Ticket, Entry>,
}

/// The room that a queue keeps, whoever is in it.
const KEPT: usize = 256;

impl Waiters {
    #[inline]
    pub(super) fn insert(&mut self, position: u64, waiter: Waiter, since: u64) -> Ticket {
        let ticket = Ticket { position, serial: self.serial };
        self.serial += 1;
        let entry = Entry { waiter, since };
        if self.first.is_none() && self.rest.is_none() {
            self.first = Some((ticket, entry));
        } else {
            self.insert_among(ticket, entry);
        }
        ticket
    }

    #[inline(never)]
    fn insert_among(&mut self, ticket: Ticket, entry: Entry) {
        let comes_first = match &self.first {
            Some((first, _)) => ticket < *first,
            // Also where others wait for later positions: the host for the end of a long hand-over, say.
            None => self.next().is_none_or(|next| ticket < next),
        };
        if !comes_first {
            self.rest.get_or_insert_default().insert(ticket, entry);
        } else if let Some((next, entry)) = self.first.replace((ticket, entry)) {
            self.rest.get_or_insert_default().queue.push_front((next, Some(entry)));
        }
    }

    /// The first one behind `first`.
    fn next(&self) -> Option<Ticket> {
        self.rest.as_ref()?.next()
    }

    #[inline]
    pub(super) fn remove(&mut self, ticket: Ticket) -> Option<Waiter> {
        match self.first.take_if(|(first, _)| *first == ticket) {
            Some((_, entry)) => Some(entry.waiter),
            None => self.remove_among(ticket),
        }
    }

    #[inline(never)]
    fn remove_among(&mut self, ticket: Ticket) -> Option<Waiter> {
        self.rest.as_mut()?.remove(ticket).map(|entry| entry.waiter)
    }

    pub(super) fn get_mut(&mut self, ticket: Ticket) -> Option<&mut Waiter> {
        let entry = match &mut self.first {
            Some((first, entry)) if *first == ticket => Some(entry),
            _ => self.rest.as_mut()?.get_mut(ticket),
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
        match self.next() {
            None => Err(None),
            Some(next) if next.position > completed => Err(Some(next.position)),
            Some(next) => self.remove_among(next).ok_or(None),
        }
    }

    /// Takes every entry at or after `position`, in order.
    pub(super) fn split_from(&mut self, position: u64) -> impl Iterator<Item = Waiter> + use<> {
        let first = self.first.take_if(|(first, _)| first.position >= position);
        let rest = self.rest.as_mut().map(|rest| rest.split_from(position)).unwrap_or_default();
        first.into_iter().chain(rest).map(|(_, entry)| entry.waiter)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none() && self.next().is_none()
    }

    /// The last position that somebody waits for.
    pub(super) fn last(&self) -> Option<u64> {
        let first = self.first.as_ref().map(|(ticket, _)| *ticket);
        let rest = self.rest.as_ref().and_then(|rest| rest.last());
        first.max(rest).map(|ticket| ticket.position)
    }

    /// In no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Entry)> {
        let first = self.first.iter().map(|(ticket, entry)| (ticket, entry));
        let rest = self.rest.iter().flat_map(|rest| rest.iter());
        first.chain(rest).map(|(ticket, entry)| (ticket.position, entry))
    }
}

impl Rest {
    fn insert(&mut self, ticket: Ticket, entry: Entry) {
        if self.queue.back().is_none_or(|(last, _)| *last < ticket) {
            self.queue.push_back((ticket, Some(entry)));
        } else {
            self.late.insert(ticket, entry);
        }
    }

    fn next(&self) -> Option<Ticket> {
        // No gap is at the front.
        let queued = self.queue.front().map(|(ticket, _)| *ticket);
        let late = self.late.first_key_value().map(|(ticket, _)| *ticket);
        queued.into_iter().chain(late).min()
    }

    fn last(&self) -> Option<Ticket> {
        let queued = self.queue.back().map(|(ticket, _)| *ticket);
        queued.max(self.late.last_key_value().map(|(ticket, _)| *ticket))
    }

    fn index(&self, ticket: Ticket) -> Option<usize> {
        // Who is told is the first one, nearly always.
        if self.queue.front().is_some_and(|(first, _)| *first == ticket) {
            return Some(0);
        }
        self.queue.binary_search_by_key(&ticket, |(queued, _)| *queued).ok()
    }

    fn remove(&mut self, ticket: Ticket) -> Option<Entry> {
        let Some(index) = self.index(ticket) else { return self.late.remove(&ticket) };
        let entry = self.queue[index].1.take()?;
        self.gaps += 1;
        self.close_gaps();
        Some(entry)
    }

    /// Takes gaps off both ends, and out of the middle where they are more than half.
    fn close_gaps(&mut self) {
        let is_gap = |end: Option<&(Ticket, Option<Entry>)>| end.is_some_and(|(_, entry)| entry.is_none());
        while is_gap(self.queue.front()) {
            self.queue.pop_front();
            self.gaps -= 1;
        }
        while is_gap(self.queue.back()) {
            self.queue.pop_back();
            self.gaps -= 1;
        }
        if self.gaps > self.queue.len() / 2 {
            self.queue.retain(|(_, entry)| entry.is_some());
            self.gaps = 0;
        }
        if self.queue.capacity() > KEPT && self.queue.len() < self.queue.capacity() / 4 {
            self.queue.shrink_to(2 * self.queue.len());
        }
    }

    fn get_mut(&mut self, ticket: Ticket) -> Option<&mut Entry> {
        match self.index(ticket) {
            Some(index) => self.queue[index].1.as_mut(),
            None => self.late.get_mut(&ticket),
        }
    }

    fn split_from(&mut self, position: u64) -> Vec<(Ticket, Entry)> {
        let index = self.queue.partition_point(|(ticket, _)| ticket.position < position);
        let queued = self.queue.split_off(index);
        let length = queued.len();
        let mut split: Vec<_> =
            queued.into_iter().filter_map(|(ticket, entry)| Some((ticket, entry?))).collect();
        self.gaps -= length - split.len();
        self.close_gaps();
        split.extend(self.late.split_off(&Ticket { position, serial: 0 }));
        split.sort_by_key(|(ticket, _)| *ticket);
        split
    }

    fn iter(&self) -> impl Iterator<Item = (&Ticket, &Entry)> {
        let queued = self.queue.iter().filter_map(|(ticket, entry)| Some((ticket, entry.as_ref()?)));
        queued.chain(&self.late)
    }
}

#[cfg(all(test, not(gpu_events_loom)))]
mod tests {
    use super::*;
    use std::task::Waker;

    /// The list beside a plain map that does the same: whoever is in one is in the other, in the same order.
    #[test]
    fn does_what_a_map_does() {
        let mut random = 0x9E37_79B9_7F4A_7C15_u64;
        let mut below = |bound: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % bound
        };
        for round in 0..200 {
            let (mut list, mut map) = (Waiters::default(), BTreeMap::new());
            let mut completed = 0;
            for step in 0..400 {
                match below(if round % 2 == 0 { 8 } else { 16 }) {
                    0 => {
                        let at = below(map.len() as u64 + 1) as usize;
                        let ticket = map.keys().nth(at).copied();
                        let ticket = ticket.unwrap_or(Ticket { position: step, serial: u64::MAX });
                        assert_eq!(list.remove(ticket).is_some(), map.remove(&ticket).is_some());
                        assert!(list.get_mut(ticket).is_none(), "taken back");
                    }
                    1 => {
                        completed += below(4);
                        while list.pop_reached(completed).is_ok() {
                            let (first, _) = map.pop_first().expect("somebody in the map as well");
                            assert!(first.position <= completed);
                        }
                        let next = map.keys().next().map(|ticket: &Ticket| ticket.position);
                        assert_eq!(list.pop_reached(completed).unwrap_err(), next);
                    }
                    2 if below(8) == 0 => {
                        let from = completed + below(16);
                        let split = list.split_from(from).count();
                        assert_eq!(split, map.split_off(&Ticket { position: from, serial: 0 }).len());
                    }
                    _ => {
                        // Mostly in order, as recordings are.
                        let position = completed + 1 + if below(4) == 0 { below(16) } else { 16 };
                        let ticket = list.insert(position, Waiter::Waker(Waker::noop().clone()), step);
                        assert!(map.insert(ticket, step).is_none(), "no ticket comes twice");
                        assert!(list.get_mut(ticket).is_some());
                    }
                }
                assert_eq!(list.is_empty(), map.is_empty());
                assert_eq!(list.last(), map.keys().last().map(|ticket| ticket.position));
                let mut listed: Vec<_> =
                    list.iter().map(|(position, entry)| (position, entry.since)).collect();
                listed.sort_unstable();
                let mut mapped: Vec<_> =
                    map.iter().map(|(ticket, since)| (ticket.position, *since)).collect();
                mapped.sort_unstable();
                assert_eq!(listed, mapped);
                if let Some(rest) = &list.rest {
                    let gaps = rest.queue.iter().filter(|(_, entry)| entry.is_none()).count();
                    assert_eq!(gaps, rest.gaps);
                    assert!(gaps <= rest.queue.len() / 2, "gaps are no more than half");
                }
            }
        }
    }

    #[test]
    fn a_failure_tells_in_order() {
        let mut list = Waiters::default();
        for position in [5, 7, 6, 9, 6, 5, 8] {
            list.insert(position, Waiter::Waker(Waker::noop().clone()), position);
        }
        let split = |rest: &mut Rest, from| -> Vec<u64> {
            rest.split_from(from).iter().map(|(ticket, _)| ticket.position).collect()
        };
        let rest = list.rest.as_mut().expect("more than one waits");
        assert_eq!(split(rest, 6), [6, 6, 7, 8, 9]);
        assert_eq!(split(rest, 1), [5]);
    }

    #[test]
    fn a_long_queue_is_not_kept() {
        let mut list = Waiters::default();
        let tickets: Vec<_> = (0..10 * KEPT as u64)
            .map(|at| list.insert(at, Waiter::Waker(Waker::noop().clone()), 0))
            .collect();
        // But for the first two, of whom one is in the queue.
        tickets[2..].iter().rev().for_each(|ticket| drop(list.remove(*ticket).expect("it is there")));
        assert_eq!(list.iter().count(), 2);
        assert!(list.rest.is_some_and(|rest| rest.queue.capacity() <= KEPT));
    }
}
