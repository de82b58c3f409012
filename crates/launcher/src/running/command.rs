//! `lguest ps` and `lguest stop`.

use std::thread;
use std::time::{Duration, Instant};

use clap::Args;

use super::door::{self, Wish};
use super::record::{self, Running};
use crate::ending::Ending;
use crate::images::command::age;
use crate::images::store::now;
use crate::request::{self, Mistake};

/// How long a machine that was told to end may take.
const GRACE: Duration = Duration::from_secs(5);
/// How often it is looked after.
const LOOK: Duration = Duration::from_millis(20);

/// `lguest stop`.
#[derive(Debug, Args)]
pub struct StopArguments {
    /// The machines, as lguest ps numbers them
    #[arg(required = true, value_name = "ID")]
    pub ids: Vec<String>,

    /// How long a Guest has to shut down after its power button was pressed; then it is stopped
    #[arg(long, value_name = "SECONDS", default_value = "10", allow_hyphen_values = true)]
    pub patience: String,
}

/// The list of running machines.
pub fn list() -> String {
    let running = record::all(&record::folder());
    if running.is_empty() {
        return "no machine runs\n".to_owned();
    }
    let mut text = format!("{:>8}  {:>10}  {:>8}  CPUS  GUEST\n", "ID", "AGE", "MEMORY");
    for Running { record, .. } in running {
        let what = [std::slice::from_ref(&record.guest), &record.command].concat().join(" ");
        let what: String =
            what.chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect();
        let age = age(now().saturating_sub(record.since));
        let memory = format!("{}M", record.memory >> 20);
        text += &format!("{:>8}  {age:>10}  {memory:>8}  {:>4}  {what}\n", record.pid, record.cpus);
    }
    text
}

/// Stops machines, one after the other.
pub fn stop(arguments: &StopArguments) -> Ending {
    match stop_all(arguments) {
        Ok(()) => Ending::Status(0),
        Err(mistake) => Ending::Mistake(mistake.to_string()),
    }
}

fn stop_all(arguments: &StopArguments) -> Result<(), Mistake> {
    let text = &arguments.patience;
    let patience = match text.as_str() {
        "0" => Duration::ZERO,
        text => request::timeout(text).map_err(|_| {
            Mistake(format!("--patience {text}: is no time; give a number of seconds, for instance 10 or 0"))
        })?,
    };
    // A wrong number stops nobody.
    let wanted: Vec<Running> = arguments.ids.iter().map(|id| record::find(id)).collect::<Result<_, _>>()?;
    wanted.iter().try_for_each(|one| stop_one(one, patience))
}

/// Presses the button of a Guest that may listen, and pulls the plug of one that did not.
fn stop_one(machine: &Running, patience: Duration) -> Result<(), Mistake> {
    let knock = |wish| match door::knock(&machine.socket, wish) {
        // It ended just now.
        Err(_) if machine.is_over() => Ok(()),
        other => other.map(drop).map_err(|cause| {
            Mistake(format!("ID {}: the machine does not answer: {cause}", machine.record.pid))
        }),
    };
    if machine.record.has_button && !patience.is_zero() {
        knock(Wish::Power)?;
        if is_over_within(machine, patience) {
            return Ok(());
        }
    }
    knock(Wish::Stop)?;
    if is_over_within(machine, GRACE) {
        return Ok(());
    }
    let pid = machine.record.pid;
    Err(Mistake(format!("ID {pid}: the machine does not end; kill {pid} ends it")))
}

fn is_over_within(machine: &Running, limit: Duration) -> bool {
    let end = Instant::now() + limit;
    while Instant::now() < end {
        if machine.is_over() {
            return true;
        }
        thread::sleep(LOOK);
    }
    machine.is_over()
}
