//! From submitting work to somebody knowing that it is done.

use crate::{
    bench::{Bench, submit, submit_and_record, work},
    measuring::{Entry, failed, reach},
    report::{Goal, goals, in_turn},
};
use futures_lite::future::block_on;
use gpu_events::Result;
use std::{
    sync::mpsc,
    time::{Duration, Instant},
};

pub(crate) fn run(bench: &Bench) -> Result<()> {
    [(20, 300), (200, 300), (1_000, 150), (2_000, 80), (20_000, 15)]
        .into_iter()
        .try_for_each(|(micros, rounds)| of(bench, Duration::from_micros(micros), rounds))
}

fn of(bench: &Bench, time: Duration, rounds: usize) -> Result<()> {
    let commands = bench.lasting(time)?;
    let stream = &bench.device.create_stream()?;
    let raw = &bench.raw(Some(stream))?;
    let event = &bench.device.pool().acquire();
    // Everybody leaves an idle queue behind.
    let round = move |known: &mut dyn FnMut() -> Result<Instant>| {
        let begun = Instant::now();
        let told = known()?;
        stream.synchronize()?;
        raw.drain()?;
        Ok(told.saturating_duration_since(begun).as_nanos() as f64 / 1e3)
    };
    let whole = move || submit_and_record(stream, work(commands), event);
    let all = in_turn(
        &format!("Work of {time:?}: from before its submission to knowing that it is done."),
        "µs",
        rounds,
        vec![
            Entry::new("raw: `vkWaitSemaphores`", move || {
                round(&mut || {
                    raw.sleep(raw.submit(&[commands])?)?;
                    Ok(Instant::now())
                })
            }),
            Entry::new("raw: `vkGetSemaphoreCounterValue` in a loop", move || {
                round(&mut || {
                    raw.spin(raw.submit(&[commands])?)?;
                    Ok(Instant::now())
                })
            }),
            Entry::new("ours: `synchronize`, work and recording under one lock", move || {
                round(&mut || {
                    whole()?;
                    event.synchronize()?;
                    Ok(Instant::now())
                })
            }),
            Entry::new("ours: `synchronize`, work, then recording", move || {
                round(&mut || {
                    submit(stream, work(commands))?;
                    event.record(stream)?;
                    event.synchronize()?;
                    Ok(Instant::now())
                })
            }),
            Entry::new("ours: `WaitStrategy::Spin`", move || {
                round(&mut || {
                    whole()?;
                    reach(event)?;
                    Ok(Instant::now())
                })
            }),
            Entry::new("ours: a callback", move || {
                round(&mut || {
                    let (tell, told) = mpsc::sync_channel(1);
                    whole()?;
                    event.on_complete(move |outcome| {
                        // Whoever has gone does not mind.
                        let _ = tell.send((outcome, Instant::now()));
                    })?;
                    let (outcome, at) = told.recv().map_err(|_| failed("the callback never ran"))?;
                    outcome.map(|()| at)
                })
            }),
            Entry::new("ours: a future, by `block_on`", move || {
                round(&mut || {
                    whole()?;
                    block_on(event.completion())?;
                    Ok(Instant::now())
                })
            }),
        ],
    )?;
    goals(&[
        ("`synchronize` / `vkWaitSemaphores`", all[2].median / all[0].median, Goal::AtMost(1.1)),
        ("the same, two calls", all[3].median / all[0].median, Goal::AtMost(1.1)),
        ("`Spin` / a loop on the counter", all[4].median / all[1].median, Goal::AtMost(1.1)),
        ("a callback / `vkWaitSemaphores`", all[5].median / all[0].median, Goal::None),
        ("a future / `vkWaitSemaphores`", all[6].median / all[0].median, Goal::None),
        ("a callback later than a loop on the counter, µs", all[5].median - all[1].median, Goal::None),
        ("a future later than a loop on the counter, µs", all[6].median - all[1].median, Goal::None),
    ]);
    Ok(())
}
