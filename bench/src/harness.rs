//! How things are measured: all variants of a group in turn, round after round, so that whatever disturbs the
//! machine disturbs them alike.

use super::host::{self, Meanwhile, Watch};
use super::report::{Row, Target};
use super::stats::{self, Summary};
use anyhow::{Context, Result};
use indicatif::ProgressBar;
use std::collections::BTreeSet;
use std::sync::Barrier;
use std::time::{Duration, Instant};

/// How much to measure.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) rounds: usize,
    pub(super) quick: bool,
}

impl Plan {
    /// `full`, or `quick` when figures need not mean anything.
    pub(super) fn pick<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }

    /// Samples that one round takes of an operation too short to be timed alone.
    fn slices(&self) -> usize {
        self.pick(8, 2)
    }

    /// How long one such sample takes: short against the host's time slices, long against reading the clock.
    fn slice(&self) -> Duration {
        self.pick(Duration::from_micros(400), Duration::from_micros(20))
    }
}

/// What has been measured of one variant.
#[derive(Debug, Default)]
pub(super) struct Samples {
    /// Nanoseconds for each operation.
    ns: Vec<f64>,
    /// Nanoseconds of processor time, of all threads, for each operation.
    cpu_ns: Vec<f64>,
    /// Bytes of memory for each object.
    bytes: Vec<f64>,
}

impl Samples {
    pub(super) fn ns(&mut self, ns: f64) {
        self.ns.push(ns);
    }

    pub(super) fn cpu_ns(&mut self, ns: f64) {
        self.cpu_ns.push(ns);
    }

    pub(super) fn bytes(&mut self, bytes: f64) {
        self.bytes.push(bytes);
    }

    /// Adds what `operations` took together.
    pub(super) fn batch(&mut self, took: Duration, operations: u64) {
        self.ns(took.as_nanos() as f64 / operations as f64);
    }

    pub(super) fn median(&self) -> Option<f64> {
        stats::median(&self.ns)
    }
}

/// One round of a variant.
pub(super) type Measure<'a> = Box<dyn FnMut(&mut Samples) -> Result<()> + 'a>;

/// One way of doing something.
struct Variant<'a> {
    label: String,
    measure: Measure<'a>,
    samples: Samples,
}

/// Names a variant within its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct VariantId(usize);

struct Spec {
    name: String,
    subject: VariantId,
    baseline: VariantId,
    targets: Vec<Target>,
}

/// Variants that are measured in turn, and the rows that compare them.
pub(super) struct Group<'a> {
    pub(super) title: &'static str,
    variants: Vec<Variant<'a>>,
    rows: Vec<Spec>,
    processes: bool,
}

impl<'a> Group<'a> {
    pub(super) fn new(title: &'static str) -> Self {
        Self { title, variants: Vec::new(), rows: Vec::new(), processes: false }
    }

    /// A group each of whose measurements is a process of its own: a few tell all, and there is nothing to warm up.
    pub(super) fn of_processes(title: &'static str) -> Self {
        Self { processes: true, ..Self::new(title) }
    }

    /// Adds something to measure. Whatever is dear to set up, `measure` sets up when it first runs.
    pub(super) fn variant(&mut self, label: impl Into<String>, measure: Measure<'a>) -> VariantId {
        self.variants.push(Variant { label: label.into(), measure, samples: Samples::default() });
        VariantId(self.variants.len() - 1)
    }

    /// Adds a row that puts `subject` beside `baseline`.
    pub(super) fn row(
        &mut self,
        name: impl Into<String>,
        subject: VariantId,
        baseline: VariantId,
        targets: impl IntoIterator<Item = Target>,
    ) {
        let targets = targets.into_iter().collect();
        self.rows.push(Spec { name: name.into(), subject, baseline, targets });
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.rows.iter().map(|row| row.name.as_str())
    }

    /// Keeps all rows if the title contains `pattern`, whatever its case; else those whose name does.
    pub(super) fn filter(&mut self, pattern: &str) {
        let pattern = pattern.to_lowercase();
        let has_pattern = |text: &str| text.to_lowercase().contains(&pattern);
        if !has_pattern(self.title) {
            self.rows.retain(|row| has_pattern(&row.name));
        }
    }

    /// The variants that the rows are made of.
    fn needed(&self) -> BTreeSet<VariantId> {
        let of_row = |row: &'_ Spec| {
            let others = row.targets.iter().filter_map(Target::compares_with);
            [row.subject, row.baseline].into_iter().chain(others).collect::<Vec<_>>()
        };
        self.rows.iter().flat_map(of_row).collect()
    }

    /// How many rounds are for warming up, and how many count.
    fn rounds(&self, plan: &Plan) -> (usize, usize) {
        if self.processes { (0, plan.rounds.min(3)) } else { (1, plan.rounds) }
    }

    /// How often [`Group::measure`] will say that it has come further.
    pub(super) fn steps(&self, plan: &Plan) -> u64 {
        let (warm_up, rounds) = self.rounds(plan);
        ((warm_up + rounds) * self.needed().len()) as u64
    }

    /// Measures what the rows need.
    pub(super) fn measure(mut self, plan: &Plan, progress: &ProgressBar) -> Result<Vec<Row>> {
        let needed = self.needed();
        let (warm_up, rounds) = self.rounds(plan);
        let variants = self.variants.iter_mut().enumerate();
        let mut variants: Vec<_> = variants
            .filter(|(index, _)| needed.contains(&VariantId(*index)))
            .map(|(_, variant)| variant)
            .collect();

        let watch = Watch::start();
        // One round to warm up and to find the sizes of batches, then those that count. Each starts with another
        // variant: none always comes after the same neighbour's disturbance at the same place of a round.
        for round in 0..warm_up + rounds {
            let first = round % variants.len().max(1);
            variants.rotate_left(first);
            for variant in &mut variants {
                progress.set_message(format!("{}: {}", self.title, variant.label));
                let measured = (variant.measure)(&mut variant.samples);
                measured.with_context(|| format!("measuring {}", variant.label))?;
                if round < warm_up {
                    variant.samples = Samples::default();
                }
                progress.inc(1);
            }
            variants.rotate_right(first);
        }
        let meanwhile = watch.read();
        self.rows.iter().map(|spec| self.row_of(spec, meanwhile)).collect()
    }

    fn row_of(&self, spec: &Spec, meanwhile: Option<Meanwhile>) -> Result<Row> {
        let summary = |of: VariantId| -> Result<_> {
            let variant = &self.variants[of.0];
            let summary = Summary::of(&variant.samples.ns);
            Ok((variant, summary.with_context(|| format!("nothing was measured of {}", variant.label))?))
        };
        let (subject, ours) = summary(spec.subject)?;
        let (baseline, theirs) = summary(spec.baseline)?;
        let mut row = Row {
            name: spec.name.clone(),
            ns: ours.median,
            p99_ns: ours.p99,
            baseline: baseline.label.clone(),
            baseline_ns: theirs.median,
            ratio: ours.median / theirs.median,
            baseline_p99_ns: theirs.p99,
            spread: ours.spread,
            cpu_ns: stats::median(&subject.samples.cpu_ns),
            baseline_cpu_ns: stats::median(&baseline.samples.cpu_ns),
            bytes: stats::median(&subject.samples.bytes),
            baseline_bytes: stats::median(&baseline.samples.bytes),
            stolen_cores: meanwhile.map(|meanwhile| meanwhile.stolen),
            targets: Vec::new(),
        };
        let median_of = |of: VariantId| self.variants[of.0].samples.median();
        row.targets = spec.targets.iter().filter_map(|target| target.judge(&row, median_of)).collect();
        Ok(row)
    }
}

/// An operation that is too short to be timed alone, on one thread.
pub(super) fn repeated<'a>(plan: &Plan, mut operation: impl FnMut() -> Result<()> + 'a) -> Measure<'a> {
    let mut batch = Batch::new(plan);
    Box::new(move |samples| batch.sample(samples, &mut operation))
}

/// How many operations make a sample, found as it goes.
#[derive(Debug)]
pub(super) struct Batch {
    slices: usize,
    slice: Duration,
    operations: u64,
}

impl Batch {
    pub(super) fn new(plan: &Plan) -> Self {
        Self { slices: plan.slices(), slice: plan.slice(), operations: 16 }
    }

    /// Takes one round's samples of `operation`.
    pub(super) fn sample(
        &mut self,
        samples: &mut Samples,
        mut operation: impl FnMut() -> Result<()>,
    ) -> Result<()> {
        self.sample_batches(samples, |operations| (0..operations).try_for_each(|_| operation()))
    }

    /// Takes one round's samples of `run`, which does as many operations as it is told.
    pub(super) fn sample_batches(
        &mut self,
        samples: &mut Samples,
        mut run: impl FnMut(u64) -> Result<()>,
    ) -> Result<()> {
        // Not counted: it brings back the caches and predictions that the variant before has taken.
        self.adapt(&mut run)?;
        for _ in 0..self.slices {
            let start = Instant::now();
            run(self.operations)?;
            samples.batch(start.elapsed(), self.operations);
        }
        Ok(())
    }

    /// Runs until a batch about fills the slice: within a factor of two it is fine as it is.
    fn adapt(&mut self, run: &mut impl FnMut(u64) -> Result<()>) -> Result<()> {
        loop {
            let start = Instant::now();
            run(self.operations)?;
            let factor = self.slice.as_secs_f64() / start.elapsed().as_secs_f64().max(1e-9);
            if !(0.5..2.0).contains(&factor) {
                // A single disturbance must not shrink it for good, so it shrinks by halves.
                self.operations = (self.operations as f64 * factor.clamp(0.5, 8.0)).max(1.0) as u64;
            }
            if factor < 2.0 {
                return Ok(());
            }
        }
    }
}

/// An operation that `threads` threads do at once: time over the operations of all of them together. `work` gets the
/// thread's number and how often to do it.
pub(super) fn threaded<'a>(
    plan: &Plan,
    threads: usize,
    work: impl Fn(usize, u64) + Sync + 'a,
) -> Measure<'a> {
    let plan = *plan;
    Box::new(move |samples| {
        sample_threads(&plan, samples, threads, &work);
        Ok(())
    })
}

/// Takes one round's sample of `work`.
pub(super) fn sample_threads(
    plan: &Plan,
    samples: &mut Samples,
    threads: usize,
    work: impl Fn(usize, u64) + Sync,
) {
    // Enough for each thread to be scheduled out and in, where there are more of them than cores.
    let wall = plan.pick(Duration::from_millis(10), Duration::from_micros(100));
    samples.ns(run_threads(threads, wall, &work));
}

/// Operations between two looks at the clock.
const CHUNK: u64 = 256;

/// Nanoseconds for each operation, while all threads are at it for so long.
///
/// Their rates are added up: with a fixed number of operations for each, one thread whose core the host takes away for a
/// moment would say how fast all were.
fn run_threads(threads: usize, wall: Duration, work: &(impl Fn(usize, u64) + Sync)) -> f64 {
    let barrier = Barrier::new(threads);
    let rate = |thread| {
        // Two on one core while another idles would say something of the scheduler, and nothing of the operation.
        let _pinned = host::pin_to_core(thread);
        work(thread, CHUNK); // what a thread has to set up once is not what an operation costs
        barrier.wait();
        let (start, mut done) = (Instant::now(), 0);
        loop {
            work(thread, CHUNK);
            done += CHUNK;
            let took = start.elapsed();
            if took >= wall {
                return done as f64 / took.as_nanos() as f64;
            }
        }
    };
    let rates: Vec<f64> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|thread| scope.spawn(move || rate(thread))).collect();
        running.into_iter().map(|thread| thread.join().expect("the work doesn't panic")).collect()
    });
    1.0 / rates.iter().sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::sync::atomic::{AtomicU64, Ordering};

    const QUICK: Plan = Plan { rounds: 3, quick: true };

    fn constant<'a>(ns: f64) -> Measure<'a> {
        Box::new(move |samples| {
            samples.ns(ns);
            Ok(())
        })
    }

    #[test]
    fn variants_take_turns_and_the_first_round_is_for_warming_up() {
        let order = RefCell::new(String::new());
        let letter = |letter: char| -> Measure<'_> {
            let order = &order;
            Box::new(move |samples| {
                order.borrow_mut().push(letter);
                samples.ns(order.borrow().len() as f64);
                Ok(())
            })
        };
        let mut group = Group::new("letters");
        let (a, b) = (group.variant("a", letter('a')), group.variant("b", letter('b')));
        group.row("a beside b", a, b, []);
        let rows = group.measure(&QUICK, &ProgressBar::hidden()).unwrap();
        assert_eq!(*order.borrow(), "abbaabba");
        // Samples 4, 5 and 8 of a; the warm-up's 1 is not among them.
        assert_eq!((rows[0].ns, rows[0].baseline_ns), (5.0, 6.0));
    }

    #[test]
    fn a_filter_leaves_only_what_its_rows_need() {
        let mut group = Group::new("some group");
        let (a, b, c) = (
            group.variant("a", constant(2.0)),
            group.variant("b", constant(4.0)),
            group.variant("c", Box::new(|_| anyhow::bail!("not to be measured"))),
        );
        group.row("Wanted", a, b, [Target::Within { of: "b", factor: 1.25, variant: b }]);
        group.row("other", c, b, []);
        group.filter("GROUP");
        assert_eq!(group.names().collect::<Vec<_>>(), ["Wanted", "other"]);
        group.filter("WANT");
        assert_eq!(group.names().collect::<Vec<_>>(), ["Wanted"]);
        let rows = group.measure(&QUICK, &ProgressBar::hidden()).unwrap();
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].ratio, 0.5);
        assert!(rows[0].targets[0].met);
    }

    #[test]
    fn a_failing_measurement_says_which() {
        let mut group = Group::new("failing");
        let a = group.variant("the variant", Box::new(|_| anyhow::bail!("no device")));
        group.row("row", a, a, []);
        let error = group.measure(&QUICK, &ProgressBar::hidden()).unwrap_err();
        assert_eq!(format!("{error:#}"), "measuring the variant: no device");
    }

    #[test]
    fn batches_grow_until_they_fill_a_slice() {
        let mut batch = Batch::new(&QUICK);
        let mut count = 0_u64;
        // A machine with other things to do may stretch a few operations over a slice, but not for ever.
        while batch.operations <= 16 {
            let mut samples = Samples::default();
            let before = count;
            let operation = || {
                count = std::hint::black_box(count + 1);
                Ok(())
            };
            batch.sample(&mut samples, operation).unwrap();
            assert_eq!(samples.ns.len(), QUICK.slices());
            assert!(count - before >= batch.operations * QUICK.slices() as u64);
        }
    }

    #[test]
    fn every_thread_does_its_share() {
        let done = [const { AtomicU64::new(0) }; 4];
        let ns = run_threads(4, Duration::from_micros(50), &|thread: usize, times| {
            done[thread].fetch_add(times, Ordering::Relaxed);
        });
        let done = done.map(AtomicU64::into_inner);
        assert!(done.iter().all(|&done| done >= 2 * CHUNK && done.is_multiple_of(CHUNK)), "{done:?}");
        assert!(ns.is_finite() && ns > 0.0);
    }
}
