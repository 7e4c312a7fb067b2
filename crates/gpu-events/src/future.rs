//! Awaiting an event.

use crate::{
    error::Result,
    event::{Event, Point},
    fork,
    lane::Observed,
    time::coarse_nanos,
    timeline::{Registered, Ticket},
    wait::Target,
};
use std::{
    future::{Future, IntoFuture},
    pin::Pin,
    task::{Context, Poll},
};

/// The future of a recording's completion; see [`Event::completion`].
///
/// Needs no particular executor, never blocks in `poll`, and wakes the latest waker that it was polled with, once,
/// when there is something to see (R19). It does not keep the event. Polled again after it was ready, it is ready
/// again, with the same answer.
#[derive(Debug)]
#[must_use = "a future does nothing unless it is polled"]
pub struct Completion {
    state: State,
}

#[derive(Debug)]
enum State {
    Ready(Result<()>),
    Pending { target: Target, ticket: Option<Ticket> },
}

impl Completion {
    pub(crate) fn ready(result: Result<()>) -> Self {
        Self { state: State::Ready(result) }
    }

    pub(crate) fn new(point: Point) -> Self {
        match point {
            Point::Unrecorded | Point::Done => Self::ready(Ok(())),
            Point::At(target) => Self { state: State::Pending { target, ticket: None } },
        }
    }
}

impl Future for Completion {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        let result = match &mut self.state {
            State::Ready(result) => return Poll::Ready(result.clone()),
            // The future may have come through a fork.
            State::Pending { .. } if fork::happened() => return Poll::Ready(fork::check()),
            State::Pending { target, ticket } => match poll_pending(target, ticket, context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(result) => result,
            },
        };
        // Takes the registration back, if there is one.
        cancel(&mut self.state);
        self.state = State::Ready(result.clone());
        Poll::Ready(result)
    }
}

fn poll_pending(target: &Target, ticket: &mut Option<Ticket>, context: &Context<'_>) -> Poll<Result<()>> {
    let timeline = &target.lane.core.timeline;
    match target.lane.observe(target.position) {
        Observed::Complete => return Poll::Ready(Ok(())),
        Observed::Failed(error) => return Poll::Ready(Err(error)),
        Observed::Pending => {}
    }
    if let Some(registered) = *ticket {
        if timeline.update_waker(registered, context.waker()) {
            return Poll::Pending;
        }
        // Told since we looked; what it was told is there to see below.
        *ticket = None;
    }
    match timeline.register(target.position, context.waker().clone(), coarse_nanos()) {
        Registered::Reached(_) => Poll::Ready(Ok(())),
        Registered::Failed(_, error) => Poll::Ready(Err(error)),
        Registered::Parked(parked) => {
            *ticket = Some(parked);
            target.lane.watch(target.position);
            Poll::Pending
        }
    }
}

fn cancel(state: &mut State) {
    if let State::Pending { target, ticket } = state
        && let Some(ticket) = ticket.take()
    {
        // The waker that comes back is dropped here, with no lock held.
        drop(target.lane.core.timeline.cancel(ticket));
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        if !fork::happened() {
            cancel(&mut self.state);
        }
    }
}

impl IntoFuture for &Event {
    type Output = Result<()>;
    type IntoFuture = Completion;

    /// `(&event).await` is `event.completion().await`.
    fn into_future(self) -> Completion {
        self.completion()
    }
}
