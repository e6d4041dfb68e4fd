//! `apix completions`: the shell's own knowledge of the command line.

use std::io::{self, Write as _};

use anyhow::Result;
use clap::{Args, CommandFactory as _};
use clap_complete::{Shell, generate};

use crate::Cli;

/// Print completions for a shell
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  apix completions bash > ~/.local/share/bash-completion/completions/apix
  apix completions zsh  > ~/.zfunc/_apix
  apix completions fish > ~/.config/fish/completions/apix.fish")]
pub(crate) struct Completions {
    /// The shell
    shell: Shell,
}

pub(crate) fn run(args: &Completions) -> Result<()> {
    let mut script = Vec::new();
    generate(args.shell, &mut Cli::command(), "apix", &mut script);
    io::stdout().lock().write_all(&script)?;
    Ok(())
}
