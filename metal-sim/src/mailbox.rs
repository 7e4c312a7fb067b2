//! A queue of messages to one thread.
//!
//! Not a channel, because a sender must not learn anything from other senders: with a channel's lock, whoever
//! commits a command buffer would be ordered after all that was done to the channel before, and ThreadSanitizer
//! would miss the very races that a missing event makes. A push here releases and never acquires.

use std::ptr::null_mut;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::thread::Thread;
use std::time::Duration;

/// Messages to one thread.
pub(crate) struct Mailbox<T> {
    /// The newest first.
    head: AtomicPtr<Letter<T>>,
    owner: OnceLock<Thread>,
}

struct Letter<T> {
    message: T,
    next: *mut Letter<T>,
}

impl<T: Send> Mailbox<T> {
    pub(crate) const fn new() -> Self {
        Self { head: AtomicPtr::new(null_mut()), owner: OnceLock::new() }
    }

    /// Makes the calling thread the one that receives.
    pub(crate) fn own(&self) {
        self.owner.set(std::thread::current()).expect("one thread owns a mailbox");
    }

    pub(crate) fn send(&self, message: T) {
        let letter = Box::into_raw(Box::new(Letter { message, next: null_mut() }));
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            // SAFETY: the letter is this thread's until the exchange below succeeds.
            unsafe { (*letter).next = head };
            // Release: the receiver sees the message. Relaxed otherwise: see above.
            match self.head.compare_exchange_weak(head, letter, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => head = now,
            }
        }
        // A thread that has not come up yet looks before it first parks.
        if let Some(owner) = self.owner.get() {
            owner.unpark();
        }
    }

    /// Takes all messages, in the order in which they were sent. Only the owner may call it.
    pub(crate) fn take(&self) -> Vec<T> {
        debug_assert!(self.owner.get().is_some_and(|o| o.id() == std::thread::current().id()));
        // Acquire: pairs with all pushes, since each exchanges the head that the one before left.
        let mut head = self.head.swap(null_mut(), Ordering::Acquire);
        let mut messages = Vec::new();
        while !head.is_null() {
            // SAFETY: the swap took the whole list, and every letter in it came from a box.
            let letter = unsafe { Box::from_raw(head) };
            head = letter.next;
            messages.push(letter.message);
        }
        messages.reverse();
        messages
    }

    /// Waits for a message, for a while.
    pub(crate) fn wait(&self, timeout: Duration) {
        if self.head.load(Ordering::Relaxed).is_null() {
            std::thread::park_timeout(timeout);
        }
    }
}

// SAFETY: messages only pass through.
unsafe impl<T: Send> Sync for Mailbox<T> {}
