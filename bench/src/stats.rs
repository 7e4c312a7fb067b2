//! What a heap of samples comes to.

/// Median, tail and spread of one variant's samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Summary {
    pub(super) median: f64,
    pub(super) p99: f64,
    /// Width of the middle 80 % over the median: how far to trust the median.
    pub(super) spread: f64,
}

impl Summary {
    /// `None` if there are no samples.
    pub(super) fn of(samples: &[f64]) -> Option<Self> {
        if samples.is_empty() {
            return None;
        }
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let median = median_of_sorted(&sorted);
        let width = nearest_rank(&sorted, 0.9) - nearest_rank(&sorted, 0.1);
        Some(Self { median, p99: nearest_rank(&sorted, 0.99), spread: width / median })
    }
}

/// The median; `None` if there are no samples.
pub(super) fn median(samples: &[f64]) -> Option<f64> {
    Summary::of(samples).map(|summary| summary.median)
}

fn median_of_sorted(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) }
}

/// The smallest sample that at least `quantile` of all samples don't exceed: always one that was measured.
fn nearest_rank(sorted: &[f64], quantile: f64) -> f64 {
    let rank = (quantile * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_has_no_median() {
        assert_eq!(Summary::of(&[]), None);
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn one_sample_is_all_there_is() {
        assert_eq!(Summary::of(&[7.0]), Some(Summary { median: 7.0, p99: 7.0, spread: 0.0 }));
    }

    #[test]
    fn order_does_not_matter() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), Some(2.5));
    }

    #[test]
    fn the_tail_is_a_sample() {
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        let summary = Summary::of(&hundred).unwrap();
        assert_eq!(summary.median, 50.5);
        assert_eq!(summary.p99, 99.0);
        assert_eq!(summary.spread, (90.0 - 10.0) / 50.5);
        // With fewer than a hundred samples, the tail is the slowest one.
        assert_eq!(Summary::of(&hundred[..20]).unwrap().p99, 20.0);
    }

    #[test]
    fn one_outlier_leaves_the_median_alone() {
        assert_eq!(median(&[1.0, 1.0, 1e9, 1.0, 1.0]), Some(1.0));
    }
}
