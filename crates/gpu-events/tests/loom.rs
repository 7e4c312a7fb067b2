#![cfg(gpu_events_loom)]
