//! Files that are there whole, or not at all.

use crate::{Error, Result};
use std::{
    fs,
    io::{self, Write},
    path::Path,
};
use tempfile::NamedTempFile;

/// Writes a file in one step: whoever looks finds what was there before, or all of `bytes`. What is no regular file (a pipe,
/// `/dev/stdout`) is written to as it is.
///
/// # Errors
/// [`ErrorKind::Io`](crate::ErrorKind::Io); nothing half-written is left then.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let at = |error| Error::io(path, error);
    if is_special(path) {
        return fs::write(path, bytes).map_err(at);
    }
    // Through links, to the file that they name.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mut file = beside(&path).map_err(at)?;
    file.write_all(bytes).and_then(|()| file.flush()).map_err(at)?;
    file.persist(&path).map_err(|error| at(error.error))?;
    Ok(())
}

/// Whether a file could be written there.
///
/// # Errors
/// [`ErrorKind::Io`](crate::ErrorKind::Io).
pub(crate) fn check(path: &Path) -> Result<()> {
    if is_special(path) {
        // A pipe waits for its reader: not to be opened in vain.
        return match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => Err(Error::io(path, io::ErrorKind::IsADirectory.into())),
            _ => Ok(()),
        };
    }
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    beside(path).map(drop).map_err(|error| Error::io(path, error))
}

/// Whether something is there that is no regular file.
fn is_special(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| !metadata.is_file())
}

/// A file in the same folder, to take its place.
fn beside(path: &Path) -> io::Result<NamedTempFile> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    builder.prefix(".").suffix(".partial");
    // As any new file: what the umask leaves, or what the file that is replaced has.
    let permissions = fs::metadata(path).ok().map(|metadata| metadata.permissions());
    #[cfg(unix)]
    builder.permissions(permissions.unwrap_or_else(|| std::os::unix::fs::PermissionsExt::from_mode(0o666)));
    #[cfg(not(unix))]
    drop(permissions);
    builder.tempfile_in(folder).map_err(|error| without_its_path(folder, &error))
}

/// The error without the path that comes with it, which is one that nobody has asked for: what the system says of the folder, or
/// else the kind of the error alone.
fn without_its_path(folder: &Path, error: &io::Error) -> io::Error {
    fs::metadata(folder).err().unwrap_or_else(|| error.kind().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_can_not_be_written_is_named_by_its_own_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("not there").join("trace.json");
        for error in [write(&path, b"{}").unwrap_err(), check(&path).unwrap_err()] {
            let system = std::error::Error::source(&error).expect("what the system said").to_string();
            assert!(error.to_string().contains("trace.json"), "{error}");
            assert!(!system.contains("partial"), "{system}");
        }
    }
}
