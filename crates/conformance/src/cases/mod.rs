//! The table of cases, in the order of the contract's headings.
//!
//! Numbers 1 to 91 are those of the project's list of cases, which gathers what other projects' suites and bug
//! reports assert; from 92 on stand what was missing there.

mod callbacks;
mod failure;
mod fork;
mod host_waits;
mod lifecycle;
mod limits;
mod status;
mod stream_waits;
mod timing;

use crate::{Context, Verdict};
use std::fmt;

/// One promise, put to the test.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Its number, which never changes.
    pub id: u16,
    /// Its name, unique as well.
    pub name: &'static str,
    /// The heading it stands under.
    pub group: Group,
    /// The contract's rules that it tests: 26 for R26.
    pub rules: &'static [u8],
    /// The test itself.
    pub run: fn(&Context) -> Verdict,
}

/// The headings of the suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Group {
    /// Events, pools and ids as objects.
    Lifecycle,
    /// What an event says when asked.
    Status,
    /// Streams that wait for events.
    StreamWaits,
    /// Threads that wait for events.
    HostWaits,
    /// Callbacks and futures.
    Callbacks,
    /// What time it was.
    Timing,
    /// What happens when work fails.
    Failure,
    /// Many, large, foreign, closed and lost.
    Limits,
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Lifecycle => "lifecycle",
            Self::Status => "status",
            Self::StreamWaits => "stream_waits",
            Self::HostWaits => "host_waits",
            Self::Callbacks => "callbacks",
            Self::Timing => "timing",
            Self::Failure => "failure",
            Self::Limits => "limits",
        })
    }
}

/// All cases, group by group.
pub fn cases() -> impl Iterator<Item = &'static Case> {
    [
        lifecycle::CASES,
        status::CASES,
        stream_waits::CASES,
        host_waits::CASES,
        callbacks::CASES,
        timing::CASES,
        failure::CASES,
        limits::CASES,
    ]
    .into_iter()
    .flatten()
}

/// A row of a group's table.
const fn case(
    group: Group,
    id: u16,
    name: &'static str,
    rules: &'static [u8],
    run: fn(&Context) -> Verdict,
) -> Case {
    Case { id, name, group, rules, run }
}
