//! What calls cost the thread that makes them.

use crate::{
    bench::{Bench, Raw, each, submit, work},
    measuring::{Entry, failed, nanos},
    report::{Goal, goals, in_turn},
};
use ash::vk;
use gpu_events::{Event, Result, Status, Stream, statuses};
use std::{
    hint::black_box,
    time::{Duration, Instant},
};

/// Recordings in one timing, fewer than a stream takes.
const CALLS: usize = 500;
/// Keeps the stream busy for as long as any of them.
const HOLD: Duration = Duration::from_millis(4);
const ROUNDS: usize = 60;
const ASKS: usize = 1_000;

pub(crate) fn run(bench: &Bench) -> Result<()> {
    busy(bench)?;
    working(bench)?;
    idle(bench)?;
    asking(bench)
}

/// Streams of ours, and a raw one, on one queue with work ahead of them.
struct Held<'a> {
    stream: Stream,
    other: Stream,
    raw: Raw<'a>,
    hold: vk::CommandBuffer,
}

impl<'a> Held<'a> {
    fn new(bench: &'a Bench) -> Result<Self> {
        let stream = bench.device.create_stream()?;
        let raw = bench.raw(Some(&stream))?;
        Ok(Self { raw, stream, other: bench.device.create_stream()?, hold: bench.lasting(HOLD)? })
    }

    /// Nanoseconds of one of so many calls, while the queue has two pieces of work ahead: what comes then has no haste.
    /// Again, should they have ended before the calls did.
    fn each(&self, calls: usize, mut call: impl FnMut() -> Result<()>) -> Result<f64> {
        let mut ahead = 0;
        in_time(|| {
            ahead += 1;
            for _ in 0..ahead {
                submit(&self.stream, work(self.hold))?;
            }
            self.stream.record()?;
            submit(&self.stream, work(self.hold))?;
            let last = self.stream.record()?;
            self.stream.flush()?;
            let time = each(calls, &mut call)?;
            let busy = last.status() == Status::Pending;
            self.stream.synchronize()?;
            self.other.synchronize()?;
            self.raw.drain()?;
            Ok(busy.then_some(time))
        })
    }
}

fn busy(bench: &Bench) -> Result<()> {
    let held = &Held::new(bench)?;
    let Held { stream, other, raw, .. } = held;
    let kept = &bench.device.pool().acquire();
    let all = in_turn(
        &format!("A stream with {HOLD:?} of work ahead, {CALLS} calls in a row, nobody looking."),
        "ns each",
        ROUNDS,
        vec![
            Entry::new("raw: `vkQueueSubmit` of one timeline signal", || {
                held.each(CALLS, || raw.submit(&[]).map(drop))
            }),
            Entry::new("ours: acquire + record + drop", || held.each(CALLS, || stream.record().map(drop))),
            Entry::new("ours: record one event again", || held.each(CALLS, || kept.record(stream))),
            Entry::new("ours: timed, acquire + record + drop", || {
                held.each(CALLS, || stream.record_timed().map(drop))
            }),
            Entry::new("raw: a signal, and a submission that waits for it", || {
                held.each(CALLS, || {
                    let value = raw.submit(&[])?;
                    raw.submit_behind(Some((raw, value)), &[]).map(drop)
                })
            }),
            Entry::new("ours: record, and another stream waits for it", || {
                held.each(CALLS, || other.wait(&stream.record()?).map(drop))
            }),
            Entry::new("ours: another stream waits, for the same event", || {
                // Recorded at the first call, when there is work ahead.
                let mut event = None;
                held.each(CALLS, || {
                    let event = match &event {
                        Some(event) => event,
                        None => event.insert(stream.record()?),
                    };
                    other.wait(event).map(drop)
                })
            }),
        ],
    )?;
    goals(&[
        ("acquire + record + drop, ns", all[1].median, Goal::AtMost(80.0)),
        ("`vkQueueSubmit` with a signal / that", all[0].median / all[1].median, Goal::AtLeast(10.0)),
        ("record + wait / the same raw", all[5].median / all[4].median, Goal::None),
    ]);
    Ok(())
}

/// With work between, so that there is something to submit.
fn working(bench: &Bench) -> Result<()> {
    let held = &Held::new(bench)?;
    let Held { stream, raw, .. } = held;
    let tiny = bench.tiny()?;
    let many = &[tiny; 16];
    let all = in_turn(
        &format!("The same, with a small piece of work each; {CALLS} pieces."),
        "ns each",
        ROUNDS,
        vec![
            Entry::new("raw: `vkQueueSubmit` of work and a signal", || {
                held.each(CALLS, || raw.submit(&[tiny]).map(drop))
            }),
            Entry::new("raw: the same, 16 in a call, a signal each", || {
                let time = held.each(CALLS / 16, || raw.submit_each(many).map(drop))?;
                Ok(time / 16.0)
            }),
            Entry::new("ours: work", || held.each(CALLS, || submit(stream, work(tiny)))),
            Entry::new("ours: work, `own_barriers`", || {
                held.each(CALLS, || submit(stream, work(tiny).own_barriers()))
            }),
            Entry::new("ours: work and a recording", || {
                held.each(CALLS, || {
                    submit(stream, work(tiny))?;
                    stream.record().map(drop)
                })
            }),
            Entry::new("ours: work and a timed recording", || {
                held.each(CALLS, || {
                    submit(stream, work(tiny))?;
                    stream.record_timed().map(drop)
                })
            }),
        ],
    )?;
    goals(&[
        ("work / raw", all[2].median / all[0].median, Goal::None),
        ("work and a recording / raw", all[4].median / all[0].median, Goal::None),
        ("work and a recording / raw, 16 in a call", all[4].median / all[1].median, Goal::None),
        ("a recording behind work, ns", all[4].median - all[2].median, Goal::None),
    ]);
    Ok(())
}

fn idle(bench: &Bench) -> Result<()> {
    let stream = &bench.device.create_stream()?;
    let raw = &bench.raw(Some(stream))?;
    in_turn(
        "A stream with nothing to do, 200 calls in a row.",
        "ns each",
        ROUNDS * 3,
        vec![
            Entry::new("raw: `vkQueueSubmit` of one timeline signal", || {
                let time = each(200, || raw.submit(&[]).map(drop))?;
                raw.drain()?;
                Ok(time)
            }),
            Entry::new("ours: acquire + record + drop", || {
                let time = each(200, || stream.record().map(drop))?;
                stream.synchronize()?;
                Ok(time)
            }),
            Entry::new("ours: timed, acquire + record + drop", || {
                let time = each(200, || stream.record_timed().map(drop))?;
                stream.synchronize()?;
                Ok(time)
            }),
        ],
    )?;
    Ok(())
}

fn asking(bench: &Bench) -> Result<()> {
    let stream = &bench.device.create_stream()?;
    let raw = &bench.raw(Some(stream))?;
    raw.submit(&[])?;
    raw.drain()?;
    let known = &stream.record()?;
    known.synchronize()?;
    let hold = bench.lasting(HOLD)?;
    let pending = |call: &mut dyn FnMut(&Event) -> Result<()>| {
        submit(stream, work(hold))?;
        let event = stream.record()?;
        stream.flush()?;
        let time = each(ASKS, || call(&event))?;
        let busy = event.status() == Status::Pending;
        stream.synchronize()?;
        Ok(busy.then_some(time))
    };
    let pending = |call: &mut dyn FnMut(&Event) -> Result<()>| in_time(|| pending(call));
    let all = in_turn(
        &format!("Asking, {ASKS} times in a row."),
        "ns each",
        300,
        vec![
            Entry::new("raw: `vkGetSemaphoreCounterValue`", || {
                each(ASKS, || {
                    black_box(raw.counter()?);
                    Ok(())
                })
            }),
            Entry::new("raw: the same, the device being busy", || {
                pending(&mut |_| {
                    black_box(raw.counter()?);
                    Ok(())
                })
            }),
            Entry::new("ours: `status` of a known recording", || {
                each(ASKS, || {
                    black_box(known.status());
                    Ok(())
                })
            }),
            Entry::new("ours: `status` of a pending recording", || {
                pending(&mut |event| {
                    black_box(event.status());
                    Ok(())
                })
            }),
            Entry::new("the loop alone", || {
                each(ASKS, || {
                    black_box(known);
                    Ok(())
                })
            }),
        ],
    )?;
    goals(&[
        ("`status` of a known recording, ns", all[2].median, Goal::AtMost(2.0)),
        ("`status` of a pending one / the raw counter", all[3].median / all[1].median, Goal::None),
    ]);
    Ok(())
}

/// What was measured before the work ahead was done; again, should it have been done too soon.
fn in_time(mut round: impl FnMut() -> Result<Option<f64>>) -> Result<f64> {
    for _ in 0..20 {
        if let Some(time) = round()? {
            return Ok(time);
        }
    }
    Err(failed("the work ahead is always done too soon"))
}

/// A thousand pending events of one stream: behind work that runs, and behind a closed gate.
pub(crate) fn polls(bench: &Bench) -> Result<()> {
    const EVENTS: usize = 1_000;
    let stream = &bench.device.create_stream()?;
    let raw = &bench.raw(Some(stream))?;
    let hold = bench.lasting(HOLD * 2)?;
    for gated in [false, true] {
        let round = |ask: &mut dyn FnMut(&[Event]) -> Result<()>| {
            let gate = if gated { Some(bench.device.host_event()?) } else { None };
            match &gate {
                Some((gate, _)) => drop(stream.wait(gate)?),
                None => submit(stream, work(hold))?,
            }
            let events = (0..EVENTS).map(|_| stream.record()).collect::<Result<Vec<_>>>()?;
            stream.flush()?;
            let begun = Instant::now();
            ask(&events)?;
            let time = nanos(begun) / EVENTS as f64;
            let busy = events[0].status() == Status::Pending;
            if let Some((_, open)) = gate {
                open.complete();
            }
            stream.synchronize()?;
            Ok(busy.then_some(time))
        };
        let round = &|ask: &mut dyn FnMut(&[Event]) -> Result<()>| in_time(|| round(ask));
        let behind = if gated { "a closed gate" } else { "work that runs" };
        let all = in_turn(
            &format!("{EVENTS} pending events of one stream, behind {behind}; one round over all."),
            "ns for each event",
            200,
            vec![
                Entry::new("raw: `vkGetSemaphoreCounterValue` each", || {
                    round(&mut |events| {
                        for _ in events {
                            black_box(raw.counter()?);
                        }
                        Ok(())
                    })
                }),
                Entry::new("ours: `statuses` of all", || {
                    round(&mut |events| {
                        black_box(statuses(events));
                        Ok(())
                    })
                }),
                Entry::new("ours: `status` each", || {
                    round(&mut |events| {
                        for event in events {
                            black_box(event.status());
                        }
                        Ok(())
                    })
                }),
            ],
        )?;
        goals(&[
            ("raw / `statuses`", all[0].median / all[1].median, Goal::None),
            ("raw / `status` each", all[0].median / all[2].median, Goal::None),
        ]);
    }
    Ok(())
}
