//! The one binary of APIX: the server and the command line.

mod add;
mod bench;
mod broker_url;
mod client;
mod completions;
mod config;
mod config_file;
mod confirm;
mod consume;
mod dead_letters;
mod dev;
mod event_args;
mod failure;
mod groups;
mod handler;
mod hybrid;
mod input;
mod limit;
mod listener;
mod live;
mod looking;
mod one_by_one;
mod progress;
mod publish;
mod replay;
mod serve;
mod signals;
mod streams;
mod table;
mod tail;
mod terminal;
mod tls;
mod token;
mod upload;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Durable events and live updates for many tenants
#[derive(Parser, Debug)]
#[command(name = "apix", version, after_help = failure::EXIT_CODES, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run the server
    #[command(after_help = "\
Examples:
  apix serve --dev                              try it: prints a token and lines to paste
  apix serve --config /etc/apix.toml
  APIX_JWT_SECRET=… apix serve --broker redis://127.0.0.1:6379 --durability disk-interval

Secrets are not flags; they come from the file, or from APIX_JWT_SECRET (or _FILE, with
APIX_JWT_TENANTS), APIX_DEV_TOKEN, APIX_REDIS_USERNAME, APIX_REDIS_PASSWORD (or _FILE),
APIX_REDIS_DATABASE, APIX_REDIS_CA, APIX_REDIS_CERT and APIX_REDIS_KEY.")]
    Serve(Box<config::ServeArgs>),
    Add(add::Add),
    Publish(publish::Publish),
    Hybrid(hybrid::Hybrid),
    Tail(tail::Tail),
    Consume(consume::Consume),
    Replay(replay::Replay),
    Streams(streams::Streams),
    Groups(groups::Groups),
    DeadLetters(dead_letters::DeadLetters),
    Token(token::Token),
    Bench(Box<bench::Bench>),
    Completions(completions::Completions),
}

fn main() -> ExitCode {
    tls::install_provider();
    let cli = Cli::parse();
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error),
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let done = runtime.block_on(async {
        match command {
            Command::Serve(args) => serve::run(*args).await,
            Command::Add(args) => add::run(args).await,
            Command::Publish(args) => publish::run(args).await,
            Command::Hybrid(args) => hybrid::run(args).await,
            Command::Tail(args) => tail::run(args).await,
            Command::Consume(args) => consume::run(args).await,
            Command::Replay(args) => replay::run(args).await,
            Command::Streams(args) => streams::run(args).await,
            Command::Groups(args) => groups::run(args).await,
            Command::DeadLetters(args) => dead_letters::run(args).await,
            Command::Token(args) => token::run(args),
            Command::Bench(args) => bench::run(*args).await,
            Command::Completions(args) => completions::run(&args),
        }
    });
    // A read of standard input that nobody waits for any more must not keep the process.
    runtime.shutdown_background();
    done
}
