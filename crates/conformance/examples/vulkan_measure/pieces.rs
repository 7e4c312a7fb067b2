//! Many pieces of work, recorded behind and not.

use crate::{
    bench::{Bench, Raw, submit, work},
    measuring::{Entry, nanos},
    report::{Goal, goals, in_turn},
};
use ash::vk;
use gpu_events::{Result, Stream};
use std::time::Instant;

const PIECES: usize = 1_000;
const BATCH: usize = 16;

fn ours(stream: &Stream, piece: vk::CommandBuffer, own_barriers: bool, records: bool) -> Result<f64> {
    let begun = Instant::now();
    for _ in 0..PIECES {
        let work = work(piece);
        submit(stream, if own_barriers { work.own_barriers() } else { work })?;
        if records {
            stream.record()?;
        }
    }
    stream.synchronize()?;
    Ok(nanos(begun) / 1e6)
}

fn raw(raw: &Raw<'_>, batches: &[Vec<vk::CommandBuffer>]) -> Result<f64> {
    let begun = Instant::now();
    for batch in batches {
        raw.submit(batch)?;
    }
    raw.drain()?;
    Ok(nanos(begun) / 1e6)
}

fn batches(piece: vk::CommandBuffer, size: usize) -> Vec<Vec<vk::CommandBuffer>> {
    vec![piece; PIECES].chunks(size).map(<[_]>::to_vec).collect()
}

pub(crate) fn run(bench: &Bench) -> Result<()> {
    let piece = bench.piece()?;
    let closed = bench.piece_with_barrier()?;
    let stream = &bench.device.create_stream()?;
    let queue = &bench.raw(Some(stream))?;
    let (plain, ordered, single) = (batches(piece, BATCH), batches(closed, BATCH), batches(closed, 1));
    // Some seconds altogether.
    let rounds = (1.2 / bench.piece_time().as_secs_f64() / PIECES as f64).clamp(7.0, 60.0) as usize;
    let title = format!(
        "{PIECES} pieces of {:?}, from the first submission to the end of the last, the host parked for the last.",
        bench.piece_time()
    );
    let all = in_turn(
        &title,
        "ms",
        rounds,
        vec![
            Entry::new("raw: `vkQueueSubmit` of 16", || raw(queue, &plain)),
            Entry::new("raw: the same, our barrier behind each", || raw(queue, &ordered)),
            Entry::new("raw: `vkQueueSubmit` of 1, our barrier behind each", || raw(queue, &single)),
            Entry::new("raw: `vkQueueSubmit` of 16, our barrier and a signal behind each", || {
                let begun = Instant::now();
                for batch in &ordered {
                    queue.submit_each(batch)?;
                }
                queue.drain()?;
                Ok(nanos(begun) / 1e6)
            }),
            Entry::new("ours, no recording", || ours(stream, piece, false, false)),
            Entry::new("ours, a recording behind each", || ours(stream, piece, false, true)),
            Entry::new("ours, `own_barriers`, no recording", || ours(stream, piece, true, false)),
            Entry::new("ours, `own_barriers`, a recording behind each", || ours(stream, piece, true, true)),
        ],
    )?;
    goals(&[
        ("recordings / none", all[5].median / all[4].median, Goal::AtMost(1.05)),
        ("`own_barriers`: recordings / none", all[7].median / all[6].median, Goal::AtMost(1.05)),
        ("recordings / raw with our barrier and a signal each", all[5].median / all[3].median, Goal::None),
        ("raw, a signal each / one in 16", all[3].median / all[1].median, Goal::None),
        ("recordings / raw with our barrier", all[5].median / all[1].median, Goal::None),
        ("`own_barriers`, recordings / raw", all[7].median / all[0].median, Goal::None),
        ("what the barrier costs: raw with / without", all[1].median / all[0].median, Goal::None),
    ]);
    Ok(())
}
