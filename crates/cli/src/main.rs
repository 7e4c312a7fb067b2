//! `gpu-events`: shows what events do on the devices of this machine.

fn main() -> std::process::ExitCode {
    gpu_events_cli::main()
}
