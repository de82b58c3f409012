//! The `lguest` command: reads the command line, does it, and tells the shell how it ended.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use lguest_launcher::cli::{Cli, Command, RunArguments, one_sentence};
use lguest_launcher::ending::{Ending, MISTAKE};
use lguest_launcher::{
    attachments, build_initramfs, devices, doctor, images, request, run, sandbox, terminal,
};

fn main() -> ExitCode {
    // A broker is this same program (attachments.rs); it has no command line and no terminal.
    if std::env::args_os().nth(1).is_some_and(|word| word == attachments::BROKER) {
        // Its own program, so nothing is held yet; from here on it holds the link and what machines hand it.
        sandbox::confine_broker();
        let status = attachments::be_broker().map_or(MISTAKE, |()| 0);
        return ExitCode::from(status);
    }

    let ending = match Cli::try_parse() {
        Ok(cli) => perform(&cli.command),
        // `--help` and `--version` arrive as errors that are none.
        Err(error) if !error.use_stderr() => {
            let _ = error.print();
            Ending::Status(0)
        }
        Err(error) if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            Ending::Mistake("say what to do: run, images, doctor, devices or initramfs".to_owned())
        }
        Err(error) => Ending::Mistake(one_sentence(&error)),
    };
    if let Some(sentence) = ending.sentence() {
        terminal::say(&sentence);
    }
    ExitCode::from(ending.code())
}

fn perform(command: &Command) -> Ending {
    match command {
        Command::Run(arguments) => match start_log(arguments) {
            Ok(()) => run::run(arguments),
            Err(mistake) => Ending::Mistake(mistake.to_string()),
        },
        Command::Initramfs(arguments) => build_initramfs::build(arguments),
        Command::Images(arguments) => {
            let (list, ending) = images::command::perform(arguments);
            // A reader that is gone misses it.
            let _ = std::io::stdout().write_all(list.as_bytes());
            ending
        }
        Command::Devices => print(&devices::list(), 0),
        Command::Doctor => {
            let (report, can_run) = doctor::examine();
            print(&report, if can_run { 0 } else { lguest_launcher::ending::MISTAKE })
        }
    }
}

/// Prints to a reader that may have gone away (`lguest devices | head -1`), which is no mistake.
fn print(text: &str, status: u8) -> Ending {
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ending::Status(status)
}

fn start_log(arguments: &RunArguments) -> Result<(), request::Mistake> {
    let level = request::log_level(&arguments.log_level)?;
    tracing_subscriber::fmt().with_max_level(level).with_ansi(false).with_writer(|| terminal::LogLine).init();
    Ok(())
}
