//! A trace as text: for logs, and for terminals of any kind.

use crate::{Analysis, Cause, Trace};
use std::fmt::Write;
use unicode_width::UnicodeWidthChar;

/// How many of the longest waits are told of, and how many of the critical path's parts.
const TOP: usize = 8;

impl Trace {
    /// A picture of block characters, so many columns wide (40 at least), and the [table](Self::to_table) below it. In the picture `█`
    /// is work, `░` waiting, and shorter blocks are shares of a column's time; `▔` below a lane marks the critical path.
    pub fn to_text(&self, width: usize) -> String {
        let analysis = Analysis::of(self);
        let width = width.max(40);
        let mut text = String::new();
        if let Some(extent) = analysis.extent {
            self.picture(&mut text, &analysis, extent, width);
        }
        self.table(&mut text, &analysis, Some(width));
        text
    }

    /// For each stream how long it was busy, waiting and idle; the longest waits; how much overlapped; and what the whole took so
    /// long for.
    pub fn to_table(&self) -> String {
        let mut text = String::new();
        self.table(&mut text, &Analysis::of(self), None);
        text
    }

    fn picture(&self, text: &mut String, analysis: &Analysis, extent: (i64, i64), width: usize) {
        let names: Vec<String> = (0..self.tracks.len()).map(|track| self.label(track)).collect();
        let longest = names.iter().map(|name| columns(name)).max().unwrap_or(0);
        let margin = longest.min(width / 3) + 1;
        let chart = width - margin;
        let length = extent.1.abs_diff(extent.0).max(1);
        // The first nanosecond of a column.
        let start_of = |column: usize| (u128::from(length) * column as u128 / chart as u128) as u64;
        let column_of = |time: i64| {
            let after = time.saturating_sub(extent.0).clamp(0, length as i64) as u128;
            ((after * chart as u128 / u128::from(length)) as usize).min(chart - 1)
        };
        // How much of each column's time is spent so, for each track.
        let shares = |pieces: &mut dyn Iterator<Item = (i64, i64)>| {
            let mut spent = vec![0_u64; chart];
            for (from, to) in pieces {
                let (from, to) = (from.max(extent.0), to.min(extent.1));
                if from >= to {
                    continue;
                }
                for (column, spent) in
                    spent.iter_mut().enumerate().take(column_of(to) + 1).skip(column_of(from))
                {
                    let begins = extent.0 + start_of(column) as i64;
                    let ends = extent.0 + start_of(column + 1) as i64;
                    *spent += to.min(ends).saturating_sub(from.max(begins)).max(0) as u64;
                }
            }
            let share = |(column, spent): (usize, &u64)| {
                *spent as f64 / (start_of(column + 1) - start_of(column)).max(1) as f64
            };
            spent.iter().enumerate().map(share).collect::<Vec<f64>>()
        };
        for (index, name) in names.iter().enumerate() {
            let busy = shares(&mut analysis.pieces(index, true));
            let waiting = shares(&mut analysis.pieces(index, false));
            let steps = analysis
                .critical_path
                .iter()
                .filter(|step| matches!(step.cause, Cause::Work(span) if self.spans[span].track == index));
            let critical = shares(&mut steps.map(|step| (step.from, step.to)));
            let _ = write!(text, "{}", fit(name, margin));
            for (busy, waiting) in busy.iter().zip(&waiting) {
                const BLOCKS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
                let block = if *waiting > *busy {
                    '░'
                } else if *busy > 0.0 {
                    // Never nothing where there is something.
                    BLOCKS[((busy * 8.0).round() as usize).clamp(1, 8)]
                } else {
                    ' '
                };
                text.push(block);
            }
            trim(text);
            let marks: String = critical.iter().map(|share| if *share > 0.0 { '▔' } else { ' ' }).collect();
            if !marks.trim().is_empty() {
                let _ = write!(text, "{}{}", " ".repeat(margin), marks.trim_end());
                text.push('\n');
            }
        }
        axis(text, margin, chart, length);
        text.push('\n');
    }

    fn label(&self, track: usize) -> String {
        let track = &self.tracks[track];
        let name = if track.device.is_empty() {
            track.name.clone()
        } else {
            format!("{} {}", track.device, track.name)
        };
        let process = self.processes.get(track.process).filter(|_| self.processes.len() > 1);
        plain(&process.map_or(name.clone(), |process| format!("{}: {name}", process.name)))
    }

    fn table(&self, text: &mut String, analysis: &Analysis, width: Option<usize>) {
        let Some(extent) = analysis.extent else {
            text.push_str("nothing happened\n");
            return;
        };
        let length = extent.1.abs_diff(extent.0);
        let names: Vec<String> = (0..self.tracks.len()).map(|track| self.label(track)).collect();
        let longest = names.iter().map(|name| columns(name)).max().unwrap_or(0).max(6);
        // Three columns with their shares, the critical path, and the doubt.
        let figures = 3 * 17 + 10 + 10;
        let room = width.map_or(longest + 1, |width| width.saturating_sub(figures).clamp(8, longest + 1));
        let share = |nanos: u64| format!("{} {:>5.1} %", time(nanos), percent(nanos, length));
        let _ = writeln!(
            text,
            "{}{:>17}{:>17}{:>17}{:>10}{:>10}",
            fit("stream", room),
            "busy",
            "waiting",
            "idle",
            "critical",
            "±"
        );
        for (index, times) in analysis.tracks.iter().enumerate() {
            let _ = writeln!(
                text,
                "{}{:>17}{:>17}{:>17}{:>8.1} %{:>10}",
                fit(&names[index], room),
                share(times.busy),
                share(times.waiting),
                share(times.idle),
                percent(times.critical, length),
                time(self.uncertainty(index)),
            );
        }
        self.summary(text, analysis, length);
    }

    fn summary(&self, text: &mut String, analysis: &Analysis, length: u64) {
        let overlap = analysis.overlap.nanos();
        let share = percent(overlap, length);
        let _ = writeln!(
            text,
            "\noverlap: two streams or more were busy for {} of {}, {share:.1} %",
            time(overlap),
            time(length)
        );
        let mut held: Vec<_> = (0..self.waits.len()).filter(|wait| analysis.waits[*wait].held > 0).collect();
        held.sort_by_key(|wait| (std::cmp::Reverse(analysis.waits[*wait].held), *wait));
        let all: u64 = held.iter().map(|wait| analysis.waits[*wait].held).sum();
        let _ = writeln!(
            text,
            "waits: {} of {} held a stream back, for {} in all",
            held.len(),
            self.waits.len(),
            time(all)
        );
        for wait in held.into_iter().take(TOP) {
            let (it, cost) = (&self.waits[wait], &analysis.waits[wait]);
            let critical = if cost.critical { ", on the critical path" } else { "" };
            let (who, event) = (self.label(it.track), plain(&it.event));
            let _ = writeln!(text, "  {} {who} waited for {event}{critical}", time(cost.held));
        }
        text.push_str("critical path:\n");
        let mut by_cause: Vec<(String, u64)> = Vec::new();
        for step in &analysis.critical_path {
            let what = match step.cause {
                Cause::Work(span) => {
                    format!("{} on {}", plain(&self.spans[span].name), self.label(self.spans[span].track))
                }
                Cause::Host(span) => format!("{} was not submitted yet", plain(&self.spans[span].name)),
                Cause::Launch(span) => format!("{} could have begun", plain(&self.spans[span].name)),
                Cause::Wait(wait) => format!("{} was waited for", plain(&self.waits[wait].event)),
            };
            let nanos = step.to.abs_diff(step.from);
            match by_cause.iter_mut().find(|(known, _)| *known == what) {
                Some((_, sum)) => *sum += nanos,
                None => by_cause.push((what, nanos)),
            }
        }
        by_cause.sort_by_key(|(_, nanos)| std::cmp::Reverse(*nanos));
        for (what, nanos) in by_cause.iter().take(TOP) {
            let _ = writeln!(text, "  {} {:>5.1} %  {what}", time(*nanos), percent(*nanos, length));
        }
        if by_cause.len() > TOP {
            let rest: u64 = by_cause[TOP..].iter().map(|(_, nanos)| *nanos).sum();
            let _ = writeln!(
                text,
                "  {} {:>5.1} %  {} more",
                time(rest),
                percent(rest, length),
                by_cause.len() - TOP
            );
        }
        if self.dropped() > 0 {
            let _ = writeln!(text, "{} spans and waits were dropped, for want of room", self.dropped());
        }
    }
}

/// Ticks and their times, below the picture.
fn axis(text: &mut String, margin: usize, chart: usize, length: u64) {
    let ticks = (chart / 16).max(1);
    let mut line = String::new();
    for tick in 0..=ticks {
        let column = margin + (chart - 1) * tick / ticks;
        let label = time((u128::from(length) * tick as u128 / ticks as u128) as u64).trim_start().to_owned();
        // The last one ends where the picture does.
        let from = if tick == ticks { column + 1 - label.chars().count() } else { column };
        let have = line.chars().count();
        if from > have || tick == 0 {
            line.push_str(&" ".repeat(from - have));
            line.push_str(&label);
        }
    }
    text.push_str(line.trim_end());
    text.push('\n');
}

fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 }
}

/// Three digits and a unit, eight columns wide.
fn time(nanos: u64) -> String {
    let (value, unit) = match nanos {
        0..1_000 => return format!("{nanos:>5} ns"),
        1_000..1_000_000 => (nanos as f64 / 1e3, "µs"),
        1_000_000..1_000_000_000 => (nanos as f64 / 1e6, "ms"),
        _ => (nanos as f64 / 1e9, "s "),
    };
    let decimals = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    format!("{value:>5.decimals$} {unit}")
}

/// Nothing that a terminal would take for an order.
fn plain(text: &str) -> String {
    let visible = |c: char| {
        let hidden = c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if hidden { c.escape_default().collect() } else { String::from(c) }
    };
    text.chars().map(visible).collect()
}

fn columns(text: &str) -> usize {
    text.chars().map(|c| c.width().unwrap_or(0)).sum()
}

/// So many columns of it: cut, or filled up.
fn fit(text: &str, width: usize) -> String {
    let mut fitted = String::new();
    let (all, mut used) = (columns(text), 0);
    // One column stays free, and one is the mark that something is missing.
    let room = if all < width { all } else { width.saturating_sub(2) };
    for c in text.chars() {
        let next = used + c.width().unwrap_or(0);
        if next > room {
            break;
        }
        fitted.push(c);
        used = next;
    }
    if all >= width && width > 1 {
        fitted.push('…');
        used += 1;
    }
    fitted.push_str(&" ".repeat(width.saturating_sub(used)));
    fitted
}

fn trim(text: &mut String) {
    text.truncate(text.trim_end().len());
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Process, Span, Track, Wait};

    #[test]
    fn a_small_trace_at_80_columns() {
        let mut trace = Trace::new(Process::new("small"));
        let copy = trace.add_track(Track::stream("gpu", "copy"));
        let hash = trace.add_track(Track::stream("gpu", "hash"));
        let upload = trace.add_span(Span::new(copy, "upload", 0, 36_000));
        trace.add_span(Span::new(hash, "first", 0, 9_000));
        let second = trace.add_span(Span::new(hash, "second", 36_000, 71_000));
        let mut wait = Wait::new(hash, "uploaded", 9_000, 36_000);
        (wait.source, wait.before) = (Some(upload), Some(second));
        trace.add_wait(wait);
        trace.processes[0].dropped = 2;
        trace.tracks[copy].uncertainty = 1_500;
        // A column is a microsecond.
        let expected = [
            &format!("gpu copy {}", "█".repeat(36)),
            &format!("         {}", "▔".repeat(36)),
            &format!("gpu hash {}{}{}", "█".repeat(9), "░".repeat(27), "█".repeat(35)),
            &format!("         {}{}", " ".repeat(36), "▔".repeat(35)),
            "         0 ns             17.8 µs           35.5 µs          53.2 µs     71.0 µs",
            "",
            "stream                busy          waiting             idle  critical         ±",
            "gpu copy   36.0 µs  50.7 %     0 ns   0.0 %  35.0 µs  49.3 %    50.7 %   1.50 µs",
            "gpu hash   44.0 µs  62.0 %  27.0 µs  38.0 %     0 ns   0.0 %    49.3 %      0 ns",
            "",
            "overlap: two streams or more were busy for  9.00 µs of  71.0 µs, 12.7 %",
            "waits: 1 of 1 held a stream back, for  27.0 µs in all",
            "   27.0 µs gpu hash waited for uploaded, on the critical path",
            "critical path:",
            "   36.0 µs  50.7 %  upload on gpu copy",
            "   35.0 µs  49.3 %  second on gpu hash",
            "2 spans and waits were dropped, for want of room",
            "",
        ];
        assert_eq!(trace.to_text(80), expected.join("\n"));
    }

    #[test]
    fn no_line_is_too_wide_and_no_name_gives_orders() {
        for width in [40, 80, 200] {
            let mut trace = Trace::new(Process::new("\u{1b}[31mred"));
            for name in
                ["a very long name indeed, which goes on and on", "\n\u{1b}]0;title\u{7}", "寛い字の名前", ""]
            {
                let track = trace.add_track(Track::stream("device", name));
                trace.add_span(Span::new(track, name, 0, 1_234));
            }
            let text = trace.to_text(width);
            assert!(!text.contains('\u{1b}') && !text.contains('\u{7}'), "{text:?}");
            let picture = text.lines().take_while(|line| !line.is_empty());
            assert!(picture.clone().count() > 4);
            for line in picture {
                assert!(columns(line) <= width, "{width}: {line}");
            }
        }
    }

    #[test]
    fn nothing_is_said_to_be_nothing() {
        assert_eq!(Trace::new(Process::new("nothing")).to_text(80), "nothing happened\n");
    }

    #[test]
    fn times_have_three_digits() {
        let times = [0, 999, 1_000, 9_994, 99_949, 999_000, 1_500_000, 61_000_000_000].map(time);
        assert_eq!(
            times,
            ["    0 ns", "  999 ns", " 1.00 µs", " 9.99 µs", " 99.9 µs", "  999 µs", " 1.50 ms", " 61.0 s "]
        );
    }
}
