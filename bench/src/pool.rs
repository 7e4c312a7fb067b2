//! Taking an event from its pool and giving it back.

use super::harness::{Group, repeated, threaded};
use super::report::Target;
use super::seed::SeedPool;
use super::{Bench, limits};
use gpu_events::EventPool;
use std::hint::black_box;

pub(super) fn group<'a>(bench: &'a Bench) -> Group<'a> {
    let plan = &bench.plan;
    let mut group = Group::new("Pool");

    let pool = EventPool::new(&bench.device);
    let ours = repeated(plan, move || {
        drop(black_box(black_box(&pool).acquire()));
        Ok(())
    });
    let one_thread = group.variant("acquire+drop", ours);

    let pool = SeedPool::default();
    let seed = repeated(plan, move || {
        drop(black_box(black_box(&pool).acquire()));
        Ok(())
    });
    let seed = group.variant("the seed's pool: recursive mutex, stack, boxed deleter", seed);
    group.row("acquire+drop", one_thread, seed, bench.targets([Target::Ns(20.0), Target::TimesFaster(4.0)]));

    let pool = SeedPool::default();
    let lean = repeated(plan, move || {
        drop(black_box(black_box(&pool).acquire_lean()));
        Ok(())
    });
    let lean =
        group.variant("the same, its deleter a raw pointer as in C++: no box, no reference count", lean);
    group.row("acquire+drop beside a lean deleter", one_thread, lean, []);

    let limit = group.variant("a thread's own stack: pop and push", limits::stack(plan));
    group.row("acquire+drop beside its limit", one_thread, limit, []);

    for threads in [2, 4, 16] {
        let pool = EventPool::new(&bench.device);
        let ours = threaded(plan, threads, move |_, times| {
            for _ in 0..times {
                drop(black_box(black_box(&pool).acquire()));
            }
        });
        let ours = group.variant(format!("acquire+drop, {threads} threads"), ours);

        let pool = SeedPool::default();
        let seed = threaded(plan, threads, move |_, times| {
            for _ in 0..times {
                drop(black_box(black_box(&pool).acquire()));
            }
        });
        let seed = group.variant(format!("the seed's pool, {threads} threads"), seed);
        let within = Target::Within { of: "one thread", variant: one_thread, factor: 1.25 };
        group.row(format!("acquire+drop, {threads} threads"), ours, seed, bench.targets([within]));
    }
    group
}
