//! Where the bytes come from: a file read by position, never mapped.

use std::fmt;
use std::fs::File;
use std::io;

/// A file, as far as the pipeline asks: its tests put one here whose length lies.
pub(crate) trait Source: Send + Sync + 'static {
    /// The length now.
    fn len(&self) -> io::Result<u64>;

    /// Reads some bytes at `offset`: none only at the end.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
}

impl Source for File {
    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    #[cfg(unix)]
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(self, buffer, offset)
    }

    #[cfg(windows)]
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        // It moves the file's cursor as well, which nobody here looks at.
        std::os::windows::fs::FileExt::seek_read(self, buffer, offset)
    }
}

/// Why a piece of the source could not be had.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// There is nothing where there was something when the source was opened.
    Shrank { offset: u64 },
    /// The system says no.
    Io { offset: u64, error: io::Error },
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shrank { offset } => {
                write!(f, "shrank while it was read: nothing is left at byte {offset}")
            }
            Self::Io { offset, error } => write!(f, "can't be read at byte {offset}: {error}"),
        }
    }
}

/// Fills the whole buffer from `offset` on.
pub(crate) fn read_exact_at(source: &dyn Source, buffer: &mut [u8], offset: u64) -> Result<(), ReadError> {
    let mut done = 0;
    while done < buffer.len() {
        let offset = offset + done as u64;
        match source.read_at(&mut buffer[done..], offset) {
            Ok(0) => return Err(ReadError::Shrank { offset }),
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(ReadError::Io { offset, error }),
        }
    }
    Ok(())
}
