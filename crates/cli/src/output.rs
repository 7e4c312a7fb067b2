//! Standard output, for readers that may leave before the end.

pub(crate) use gpu_events_bench::text::{print, print_json};
