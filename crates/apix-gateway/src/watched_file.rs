//! Files that are read again when they change.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::SystemTime;

/// What tells one version of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version {
    modified: Option<SystemTime>,
    bytes: u64,
}

impl Version {
    fn of(path: &Path) -> Option<Self> {
        let found = std::fs::metadata(path).ok()?;
        Some(Self { modified: found.modified().ok(), bytes: found.len() })
    }
}

/// A file, and which version of it was seen last.
pub(crate) struct WatchedFile {
    path: PathBuf,
    seen: Mutex<Option<Version>>,
}

impl WatchedFile {
    /// Takes the file as it is now for seen: to be made before it is read.
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), seen: Mutex::new(Version::of(path)) }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there is a version that was not seen, which is now. A file that is gone for a
    /// moment, while it is replaced, has not changed.
    pub(crate) fn has_changed(&self) -> bool {
        let Some(now) = Version::of(&self.path) else { return false };
        let mut seen = self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let changed = *seen != Some(now);
        *seen = Some(now);
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_is_seen_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        std::fs::write(&path, "one").unwrap();
        let file = WatchedFile::new(&path);
        assert!(!file.has_changed());
        std::fs::write(&path, "three").unwrap();
        assert!(file.has_changed() && !file.has_changed());
        std::fs::remove_file(&path).unwrap();
        assert!(!file.has_changed());
        std::fs::write(&path, "fourth").unwrap();
        assert!(file.has_changed());
    }
}
