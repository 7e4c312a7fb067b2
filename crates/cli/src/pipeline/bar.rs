//! The progress bar: on a terminal only, and gone when the run is over, however it ends.

use std::io;

use console::Term;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle, TermLike};

/// A bar over so many bytes on standard error, which clears itself when it is dropped.
pub(super) fn over(bytes: u64) -> ProgressBar {
    const REDRAWS_PER_SECOND: u8 = 15;
    let term = Term::buffered_stderr();
    let target = if term.is_term() {
        ProgressDrawTarget::term_like_with_hz(Box::new(AtLineStart(term)), REDRAWS_PER_SECOND)
    } else {
        ProgressDrawTarget::hidden()
    };
    let style = ProgressStyle::with_template(
        "{wide_bar:.cyan/dim} {bytes} of {total_bytes}  {binary_bytes_per_sec}  {eta} left",
    );
    ProgressBar::with_draw_target(Some(bytes), target)
        .with_style(style.expect("the template is a constant"))
        .with_finish(ProgressFinish::AndClear)
}

/// A terminal that leaves its cursor at the start of the bar's line. At the end, where indicatif leaves it, the `^C`
/// that a terminal echoes would go to the next line, and only that line would be cleared.
#[derive(Debug)]
struct AtLineStart(Term);

impl TermLike for AtLineStart {
    fn flush(&self) -> io::Result<()> {
        self.0.write_str("\r")?;
        self.0.flush()
    }

    fn width(&self) -> u16 {
        self.0.size().1
    }

    fn height(&self) -> u16 {
        self.0.size().0
    }

    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        self.0.move_cursor_up(n)
    }

    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        self.0.move_cursor_down(n)
    }

    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        self.0.move_cursor_right(n)
    }

    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        self.0.move_cursor_left(n)
    }

    fn write_line(&self, s: &str) -> io::Result<()> {
        self.0.write_line(s)
    }

    fn write_str(&self, s: &str) -> io::Result<()> {
        self.0.write_str(s)
    }

    fn clear_line(&self) -> io::Result<()> {
        self.0.clear_line()
    }
}
