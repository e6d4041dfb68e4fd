//! A folder as a power cut leaves it: built from the record that the preloaded `shim/cut.c` kept of
//! every write and flush. What was flushed is there; of the rest nothing, or any part of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The shim's library, compiled into `aside`.
pub(crate) fn shim(aside: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/shim/cut.c");
    let library = aside.join("cut.so");
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let built = Command::new(compiler)
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&library)
        .arg(source)
        .arg("-ldl")
        .status()
        .expect("a C compiler is needed to show what a power cut does");
    assert!(built.success());
    library
}

/// What becomes of that which was not flushed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Unflushed {
    /// All of it is gone.
    Lost,
    /// Each write is there, or torn, or gone, by chance.
    ByChance(u64),
}

#[derive(Clone, Debug)]
enum Write {
    At(u64, Vec<u8>),
    Truncate(u64),
}

impl Write {
    fn apply(&self, to: &mut Vec<u8>) {
        match self {
            Self::At(offset, data) => {
                let offset = usize::try_from(*offset).unwrap();
                let end = offset + data.len();
                if to.len() < end {
                    to.resize(end, 0);
                }
                to[offset..end].copy_from_slice(data);
            }
            Self::Truncate(length) => to.resize(usize::try_from(*length).unwrap(), 0),
        }
    }

    fn torn(&self, chance: &mut Chance) -> Self {
        match self {
            Self::At(offset, data) => {
                let sectors = (data.len() / 512) as u64;
                let kept = usize::try_from(chance.below(sectors + 1)).unwrap() * 512;
                Self::At(*offset, data[..kept.min(data.len())].to_vec())
            }
            other => other.clone(),
        }
    }
}

#[derive(Clone, Debug, Default)]
struct File {
    flushed: Vec<u8>,
    waiting: Vec<Write>,
    /// Whether the folder's entry of it is flushed.
    named: bool,
    /// Whether it is there at all.
    made: bool,
    /// What had this name before, as long as the folder says so on the disk.
    ghost: Option<Vec<u8>>,
}

/// A small generator; the same seed cuts in the same way.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// The files of a folder, as they are now.
fn files_of(folder: &Path) -> BTreeMap<String, File> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let flushed = std::fs::read(entry.path()).unwrap();
        let file = File { flushed, named: true, made: true, ..File::default() };
        files.insert(entry.file_name().into_string().unwrap(), file);
    }
    files
}

/// A folder that a program is going to write to under the shim.
pub(crate) struct Watched {
    files: BTreeMap<String, File>,
}

impl Watched {
    /// The folder as it is before the program starts.
    pub(crate) fn before(folder: &Path) -> Self {
        Self { files: files_of(folder) }
    }

    /// Builds in `into` what a power cut leaves at the end of the record `log`.
    pub(crate) fn cut(mut self, log: &Path, unflushed: Unflushed, into: &Path) {
        let log = std::fs::read(log).unwrap();
        let mut rest = &log[..];
        while let Some((operation, left)) = next(rest) {
            self.apply(operation);
            rest = left;
        }
        let mut chance = match unflushed {
            Unflushed::Lost => None,
            Unflushed::ByChance(seed) => Some(Chance(seed | 1)),
        };
        for (name, file) in self.files {
            // The index of the log lives in memory; the system does not write it to the disk.
            if name.ends_with("-shm") || name == "lock" {
                continue;
            }
            if let Some(content) = left_of(file, chance.as_mut()) {
                std::fs::write(into.join(name), content).unwrap();
            }
        }
    }

    fn apply(&mut self, operation: Operation<'_>) {
        let Operation { op, name, offset, data } = operation;
        match op {
            // WRITE, TRUNCATE, UNLINK, RENAME, SYNC, SYNC_FAILED, OPENED
            1 => self.file(name).waiting.push(Write::At(offset, data.to_vec())),
            2 => self.file(name).waiting.push(Write::Truncate(offset)),
            3 => {
                let gone = self.files.remove(name).unwrap_or_default();
                let ghost = if gone.named { Some(gone.flushed) } else { gone.ghost };
                self.files.insert(name.to_owned(), File { ghost, ..File::default() });
            }
            4 => panic!("nothing here renames files"),
            5 if name == "." => self.files.values_mut().for_each(|file| {
                file.named = file.made;
                file.ghost = None;
            }),
            5 => {
                let file = self.file(name);
                let File { flushed, waiting, .. } = file;
                waiting.drain(..).for_each(|write| write.apply(flushed));
                file.named = true;
                file.ghost = None;
            }
            // The system gave up on these writes and will not try again.
            6 => self.file(name).waiting.clear(),
            7 if name != "." => {
                self.file(name);
            }
            _ => {}
        }
    }

    fn file(&mut self, name: &str) -> &mut File {
        let file = self.files.entry(name.to_owned()).or_default();
        file.made = true;
        file
    }
}

fn left_of(mut file: File, chance: Option<&mut Chance>) -> Option<Vec<u8>> {
    let Some(chance) = chance else {
        return file.named.then_some(file.flushed);
    };
    if !file.made || !file.named && chance.below(2) == 0 {
        return file.ghost;
    }
    for write in &file.waiting {
        match chance.below(10) {
            0..5 => write.apply(&mut file.flushed),
            5 => write.torn(chance).apply(&mut file.flushed),
            _ => {}
        }
    }
    Some(file.flushed)
}

struct Operation<'a> {
    op: u32,
    name: &'a str,
    offset: u64,
    data: &'a [u8],
}

/// The next operation; a record that the kill cut off is none.
fn next(log: &[u8]) -> Option<(Operation<'_>, &[u8])> {
    let (head, rest) = log.split_at_checked(24)?;
    let half = |at: usize| u32::from_ne_bytes(head[at..at + 4].try_into().unwrap());
    let word = |at: usize| u64::from_ne_bytes(head[at..at + 8].try_into().unwrap());
    let (name, rest) = rest.split_at_checked(usize::try_from(half(4)).unwrap())?;
    let (data, rest) = rest.split_at_checked(usize::try_from(word(16)).unwrap())?;
    let name = std::str::from_utf8(name).unwrap();
    Some((Operation { op: half(0), name, offset: word(8), data }, rest))
}
