//! The `lguest` command: reads the command line, does it, and tells the shell how it ended.

use std::io::Write;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches};
use lguest_launcher::boot_time::Clock;
use lguest_launcher::cli::{Cli, Command, RunArguments, one_sentence};
use lguest_launcher::config::Config;
use lguest_launcher::ending::{Ending, MISTAKE};
use lguest_launcher::{
    attachments, build_initramfs, devices, doctor, images, manual, preload, request, run, running, sandbox,
    terminal,
};

fn main() -> ExitCode {
    // A broker is this same program (attachments.rs); it has no command line and no terminal.
    if std::env::args_os().nth(1).is_some_and(|word| word == attachments::BROKER) {
        // Its own program, so nothing is held yet; from here on it holds the link and what machines hand it.
        sandbox::confine_broker();
        let status = attachments::be_broker().map_or(MISTAKE, |()| 0);
        return ExitCode::from(status);
    }

    let clock = Clock::start();
    let parsed = Cli::command().try_get_matches().and_then(|matches| {
        let cli = Cli::from_arg_matches(&matches)?;
        Ok((cli, matches))
    });
    let ending = match parsed {
        Ok((cli, matches)) => perform(cli.command, &matches, clock),
        // `--help` and `--version` arrive as errors that are none.
        Err(error) if !error.use_stderr() => {
            let _ = error.print();
            Ending::Status(0)
        }
        Err(error) if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            Ending::Mistake(
                "say what to do: run, ps, exec, stop, images, doctor, devices, preload, initramfs, completions or man"
                    .to_owned(),
            )
        }
        Err(error) => Ending::Mistake(one_sentence(&error)),
    };
    if let Some(sentence) = ending.sentence() {
        terminal::say(&sentence);
    }
    ExitCode::from(ending.code())
}

fn perform(command: Command, matches: &ArgMatches, clock: Clock) -> Ending {
    match command {
        Command::Run(arguments) => run_completed(*arguments, matches, clock),
        Command::Ps => print(running::command::list().as_bytes(), 0),
        Command::Exec(arguments) => running::exec::exec(&arguments),
        Command::Stop(arguments) => running::command::stop(&arguments),
        Command::Completions { shell } => print(&manual::completions(shell), 0),
        Command::Man { subcommand } => match manual::page(subcommand.as_deref()) {
            Ok(page) => print(&page, 0),
            Err(mistake) => Ending::Mistake(mistake.to_string()),
        },
        Command::Initramfs(arguments) => build_initramfs::build(&arguments),
        Command::Images(arguments) => {
            let (list, ending) = images::command::perform(&arguments);
            // A reader that is gone misses it.
            let _ = std::io::stdout().write_all(list.as_bytes());
            ending
        }
        Command::Devices => print(devices::list().as_bytes(), 0),
        Command::Preload => match preload::library() {
            Ok(path) => print(format!("{}\n", path.display()).as_bytes(), 0),
            Err(mistake) => Ending::Mistake(mistake.to_string()),
        },
        Command::Doctor => {
            let (report, can_run) = doctor::examine();
            print(report.as_bytes(), if can_run { 0 } else { lguest_launcher::ending::MISTAKE })
        }
    }
}

/// A run, with what the user's file says where the command line is silent.
fn run_completed(mut arguments: RunArguments, matches: &ArgMatches, clock: Clock) -> Ending {
    let matches = matches.subcommand_matches("run");
    let given =
        |option: &str| matches.is_some_and(|run| run.value_source(option) == Some(ValueSource::CommandLine));
    let ready = Config::of_the_user().and_then(|config| {
        config.complete(&mut arguments, given);
        start_log(&arguments)?;
        Ok(config)
    });
    match ready {
        Ok(config) => match run::run(&arguments, clock) {
            Ending::Mistake(sentence) => Ending::Mistake(config.locate(sentence, given)),
            ending => ending,
        },
        Err(mistake) => Ending::Mistake(mistake.to_string()),
    }
}

/// Prints to a reader that may have gone away (`lguest devices | head -1`), which is no mistake.
fn print(text: &[u8], status: u8) -> Ending {
    let _ = std::io::stdout().write_all(text);
    Ending::Status(status)
}

fn start_log(arguments: &RunArguments) -> Result<(), request::Mistake> {
    let level = request::log_level(&arguments.log_level)?;
    tracing_subscriber::fmt().with_max_level(level).with_ansi(false).with_writer(|| terminal::LogLine).init();
    Ok(())
}
