//! Running `apix` to its end.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// No command of the tests takes nearly so long.
const LONGEST: Duration = Duration::from_secs(60);

/// What a command gave.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Self {
            code: output.status.code().expect("ended by a signal"),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    /// Standard output, if it succeeded.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}", self.stderr);
        self.stdout
    }

    /// The one line that says what was wrong.
    #[track_caller]
    pub(crate) fn refused(self, code: i32) -> String {
        assert_eq!(self.code, code, "{self:?}");
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        let line = self.stderr.lines().last().expect("nothing was said").to_owned();
        assert!(line.starts_with("apix: ") || code == 2, "{}", self.stderr);
        line
    }
}

/// The binary, without anything of the caller's environment that it would read.
pub(crate) fn apix() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_apix"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("APIX_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// Runs it in `folder` with `arguments`.
pub(crate) fn run_in(folder: &Path, arguments: &[&str]) -> Ran {
    finish(apix().current_dir(folder).args(arguments))
}

/// Runs `command` to its end.
pub(crate) fn finish(command: &mut Command) -> Ran {
    command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped());
    finish_child(command.spawn().unwrap())
}

/// Runs `command` with `input` on its standard input.
pub(crate) fn finish_with_input(command: &mut Command, input: &[u8]) -> Ran {
    command.process_group(0).stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // A command may end before it has read everything.
    let feeding = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let ran = finish_child(child);
    feeding.join().unwrap();
    ran
}

/// Ends it with all that it has started, by force, when it takes far too long: a test that waits for ever tells nothing.
fn finish_child(child: Child) -> Ran {
    let pid = child.id();
    let (done, ended) = mpsc::channel::<()>();
    let guard = std::thread::spawn(move || {
        if ended.recv_timeout(LONGEST) == Err(mpsc::RecvTimeoutError::Timeout) {
            let group = format!("-{pid}");
            let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
        }
    });
    let output = child.wait_with_output().unwrap();
    drop(done);
    guard.join().unwrap();
    Ran::of(output)
}
