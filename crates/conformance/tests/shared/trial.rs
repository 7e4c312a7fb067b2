//! Running a trial in a process of its own, which is ended if it stands still.

use libtest_mimic::Failed;
use std::{
    env, io,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

const ROLE: &str = "GPU_EVENTS_TRIAL";

/// Which part of this program the process was started for, if it was.
pub(crate) fn role() -> Option<String> {
    env::var(ROLE).ok()
}

/// Whether `GPU_EVENTS_REQUIRE` names this backend.
pub(crate) fn is_required(backend: &str) -> bool {
    env::var("GPU_EVENTS_REQUIRE").is_ok_and(|list| list.split(',').any(|name| name.trim() == backend))
}

/// This program once more, for `role`.
pub(crate) fn command(role: &str) -> io::Result<Command> {
    let mut command = Command::new(env::current_exe()?);
    command.env(ROLE, role);
    if role.starts_with("vulkan::") {
        // Streams that share a connection are in each other's way, which is not what those trials are about.
        command.env("CUDA_DEVICE_MAX_CONNECTIONS", "32");
    }
    Ok(command)
}

/// What it printed.
pub(crate) fn in_a_process(role: &str, limit: Duration) -> Result<String, Failed> {
    let begun = Instant::now();
    let mut child =
        command(role)?.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let (tell, told) = mpsc::channel();
    let mut pipes = 0;
    let streams: [Option<Box<dyn io::Read + Send>>; 2] = [
        child.stdout.take().map(|pipe| Box::new(pipe) as _),
        child.stderr.take().map(|pipe| Box::new(pipe) as _),
    ];
    for mut pipe in streams.into_iter().flatten() {
        let tell = tell.clone();
        pipes += 1;
        thread::spawn(move || {
            let mut piece = [0; 4_096];
            while let Ok(length @ 1..) = pipe.read(&mut piece) {
                let _ = tell.send(Some(piece[..length].to_vec()));
            }
            let _ = tell.send(None);
        });
    }
    let mut output = Vec::new();
    while pipes > 0 {
        match told.recv_timeout(limit.saturating_sub(begun.elapsed())) {
            Ok(Some(piece)) => output.extend(piece),
            Ok(None) => pipes -= 1,
            Err(_) => return Err(overdue(&mut child, limit, &output)),
        }
    }
    // It has closed its output: it has ended, or is about to.
    let status = child.wait()?;
    let output = String::from_utf8_lossy(&output).into_owned();
    if !status.success() {
        return Err(format!("{status}\n{output}").into());
    }
    for line in output.lines() {
        println!("    {role}: {line}");
    }
    Ok(output)
}

fn overdue(child: &mut Child, limit: Duration, output: &[u8]) -> Failed {
    let _ = child.kill();
    let _ = child.wait();
    format!("stood still: ended after {limit:?}\n{}", String::from_utf8_lossy(output)).into()
}
