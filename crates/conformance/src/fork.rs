//! Running something in a fork's child.

use crate::{Stop, Verdict};
use std::{sync::mpsc, thread, time::Duration};

/// Forks, runs `body` in the child, and returns what it came to. The child is killed if it takes longer than
/// `limit`, which is a failure, as is a crash.
pub(crate) fn in_child(limit: Duration, body: impl FnOnce() -> u8) -> Verdict<u8> {
    // SAFETY: the child calls `body` and `_exit`. This process has other threads, so what the child may rely on is
    // what POSIX calls async-signal-safe, and on a libc that makes `malloc` usable after a fork: glibc, musl and
    // Apple's do. That nothing else is relied on is what the caller is testing; if it fails, the child hangs or
    // crashes, and the parent sees it.
    let child = unsafe { libc::fork() };
    match child {
        -1 => Err(Stop::fail(format_args!("fork: {}", std::io::Error::last_os_error()))),
        0 => {
            let code = body();
            // SAFETY: ends the child without running anything that belongs to the parent: no destructors, no
            // `atexit`, no flushing of buffers that both have.
            unsafe { libc::_exit(code.into()) }
        }
        child => wait_for(child, limit),
    }
}

/// Waits for the child on a thread of its own, since `waitpid` has no time limit.
fn wait_for(child: libc::pid_t, limit: Duration) -> Verdict<u8> {
    let (tell, told) = mpsc::channel();
    let reap = move || {
        let mut status = 0;
        let reaped = loop {
            // SAFETY: `child` is a child of ours that nobody else waits for, and `status` outlives the call.
            let reaped = unsafe { libc::waitpid(child, &raw mut status, 0) };
            if reaped != -1 || std::io::Error::last_os_error().kind() != std::io::ErrorKind::Interrupted {
                break reaped;
            }
        };
        // Nobody listens any more once the time is up.
        let _ = tell.send((reaped, status));
    };
    if let Err(error) = thread::Builder::new().spawn(reap) {
        kill(child);
        return Err(Stop::fail(format_args!("no thread: {error}")));
    }
    match told.recv_timeout(limit) {
        Ok((reaped, status)) if reaped == child && libc::WIFEXITED(status) => {
            // An exit code has eight bits.
            Ok(libc::WEXITSTATUS(status) as u8)
        }
        Ok((_, status)) => Err(Stop::fail(format_args!("a fork's child ended with status {status:#x}"))),
        Err(_) => {
            kill(child);
            Err(Stop::fail(format_args!("a fork's child did not end within {limit:?}")))
        }
    }
}

fn kill(child: libc::pid_t) {
    // SAFETY: the child is ours and has not been reaped, so its number is nobody else's. A refusal leaves it behind,
    // which is where we are.
    unsafe { libc::kill(child, libc::SIGKILL) };
}
