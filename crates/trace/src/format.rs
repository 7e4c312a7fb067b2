//! Which format a file's name asks for.

use crate::{Error, ErrorKind, Result, Trace, file};
use std::path::Path;

/// What a file's name may end in.
const EXTENSIONS: &[&str] = if cfg!(feature = "perfetto") {
    &["pftrace", "perfetto-trace", "json", "html", "txt"]
} else {
    &["json", "html", "txt"]
};

impl Trace {
    /// Writes a file, in one step, in the format that its name asks for: `.pftrace` or `.perfetto-trace` for Perfetto, `.json` for
    /// Chrome, `.html` for a timeline to look at, `.txt` for text.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`]; [`ErrorKind::UnknownFormat`]; [`ErrorKind::Io`]; what was there before is there still.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        match extension(path) {
            #[cfg(feature = "perfetto")]
            "pftrace" | "perfetto-trace" => self.write_perfetto(path),
            "json" => self.write_chrome(path),
            "html" => self.write_html(path),
            "txt" => file::write(path, self.to_text(160).as_bytes()),
            _ => Err(unknown(path)),
        }
    }

    /// Whether [`save`](Self::save) knows what to write there, and a file can be made: for those who would not like to find it out
    /// after an hour's work.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownFormat`]; [`ErrorKind::Io`].
    pub fn check_output(path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        if EXTENSIONS.contains(&extension(path)) { file::check(path) } else { Err(unknown(path)) }
    }
}

/// Whether a file can be made there; as [`Trace::check_output`], for those who know the format.
///
/// # Errors
/// [`ErrorKind::Io`].
pub fn check_writable(path: impl AsRef<Path>) -> Result<()> {
    file::check(path.as_ref())
}

fn extension(path: &Path) -> &str {
    path.extension().and_then(|extension| extension.to_str()).unwrap_or_default()
}

fn unknown(path: &Path) -> Error {
    let path = path.display();
    let known = EXTENSIONS.join(", .");
    Error::new(
        ErrorKind::UnknownFormat,
        format!("{path}: its name should end in one of .{known}, to say what is to be written"),
    )
}
