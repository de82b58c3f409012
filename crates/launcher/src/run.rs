//! `lguest run`: from a request to a machine, and from its end to an exit status.
//!
//! Three steps. `prepare` finds every mistake before anything starts; `start` wires a machine to the terminal, the
//! control channel and the supervisor; `conclude` decides what the end of the machine means.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use lguest_devices::virtio::console::Size;

use crate::attachments::{self, Attachment, BusChoice};
use crate::board::{BusSpec, ConsoleInput, Machine, MachineSpec, Outcome, Plug};
use crate::boot_time::{Clock, Moment};
use crate::buses::{Extras, bus_spec, check_announced, drivers, lguest32_spec, nets, own_bus_spec};
use crate::cli::RunArguments;
use crate::console::{Console, Stream};
use crate::default_guest;
use crate::doctor;
use crate::ending::{Ending, likely_cause};
use crate::engine::{self, Engine};
use crate::gdb;
use crate::gdb::place::Place;
use crate::guest_files::{check_room, debian_files, open_kernel, read_initrd, root_files};
use crate::images::{self, store::Held};
use crate::initramfs;
use crate::initramfs::session::{Line, Mode, RootPlace, Session, TerminalSize};
use crate::input::{self, Source};
use crate::kernel_image::program::Kernel;
use crate::marker::MarkWord;
use crate::networks;
use crate::paravirtual;
use crate::ports::{ConsoleChoice, HostEnd, Ports};
use crate::progress::Progress;
use crate::request::{self, GuestChoice, Mistake};
use crate::root::Root;
use crate::running::{self, agent::Agent, record::Record};
use crate::sandbox::{Needs, Sandbox, Wish};
use crate::share::option::{self as share, ShareSpec};
use crate::sockets::{self, Visits};
use crate::supervise::{Reason, StopButton, Supervisor};
use crate::terminal::{self, RawTerminal};
use crate::watching::Watching;
use crate::wishes::Wishes;

/// The kernel's command line when the user gives none. A panic resets the machine at once, which ends the run.
const USUAL_CMDLINE: &str = "console=ttyS0 panic=-1";
/// The same for a kernel whose console is virtio's: what it says before it has that driver goes to the serial port.
const ON_VIRTIO: &str = "console=ttyS0 console=hvc0 panic=-1";
/// Where Linux finds virtio's console.
const VIRTIO_CONSOLE: &str = "/dev/hvc0";
/// A session of ours shows its prompt, not its boot.
const QUIET: &str = " quiet";
/// In a session of pipes the kernel's warnings would stand among the program's output; only its death may.
const SILENT: &str = " quiet loglevel=1";

/// The console's serial port.
const CONSOLE_PORT: usize = 0;
/// The control channel's.
const CONTROL_PORT: usize = 1;

/// A request without mistakes.
struct Plan {
    spec: MachineSpec,
    stream: Stream,
    /// The initrd is ours, so the session reports on the control channel.
    ours: bool,
    /// The Guest is the one that comes with lguest, whose shell knows `poweroff`.
    own: bool,
    /// A person sits at both ends.
    attached: bool,
    limit: Option<Duration>,
    watching: Watching,
    gdb: Option<Place>,
    sandbox: Sandbox,
    record: Record,
    ports: Ports,
    /// How the Guest's agent is reached.
    visits: Option<Visits>,
    /// The image stays in the cache while its machine runs.
    _image: Option<Held>,
}

/// Runs one machine.
pub fn run(arguments: &RunArguments, clock: Clock) -> Ending {
    let clock = Arc::new(clock);
    let plan = match prepare(arguments) {
        Ok(plan) => plan,
        Err(mistake) => return Ending::Mistake(mistake.to_string()),
    };
    let ending = match start(plan, &clock) {
        Ok(ending) => ending,
        Err(mistake) => return Ending::Mistake(mistake.to_string()),
    };
    if arguments.time {
        // A reader that is gone misses it.
        let _ = io::stderr().write_all(clock.report().as_bytes());
    }
    ending
}

fn prepare(arguments: &RunArguments) -> Result<Plan, Mistake> {
    // The cheap questions first, so that no mistake waits for a download.
    let memory = request::memory(&arguments.memory, doctor::host_memory())?;
    let cpus = request::cpus(&arguments.cpus)?;
    let hidden = request::cpu_features(&arguments.cpu_features)?;
    let wish = Wish::read(&arguments.sandbox)?;
    let limit = arguments.timeout.as_deref().map(request::timeout).transpose()?;
    let cmdline = arguments.cmdline.as_deref().map(request::cmdline).transpose()?;
    let progress = Progress::new(arguments.quiet);
    // From here on an image is its directory in the cache, and what it says is as if it had been asked for.
    let (asked, image) = (arguments, images::guest::take(arguments, &progress)?);
    let arguments = image.as_ref().map_or(arguments, |image| &image.arguments);
    let wishes = Wishes::read(arguments)?;
    let guest = GuestChoice::read(arguments.guest.as_deref())?;
    check_guest(&guest, arguments)?;
    let own = guest == GuestChoice::Unsaid && arguments.kernel.is_none();
    let own_initrd = arguments.initrd.as_deref().map(|path| read_initrd(path, memory)).transpose()?;
    if !own {
        check_command(&guest, own_initrd.as_deref(), arguments, &wishes)?;
    }
    let mut given = given_kernel(&guest, arguments)?;
    let lguest32 = paravirtual::choose(arguments, cpus, given.as_mut())?;
    let nets = nets(&guest, arguments);
    let mut attachments = attachments::read(&arguments.disk, &nets)?;
    let addresses = networks::addresses(&nets)?;
    let mut shares: Vec<ShareSpec> =
        arguments.share.iter().map(|text| ShareSpec::read(text)).collect::<Result<_, _>>()?;
    let usual = if own { BusChoice::LguestDma } else { BusChoice::Pci };
    let choice = attachments::bus(arguments.bus.as_deref(), usual)?;
    check_announced(choice, &guest, arguments)?;
    let internet = attachments.iter().any(|one| matches!(one, Attachment::User(_)));
    let mounts = share::mounts(&shares)?;
    let attached = terminal::is_attached();
    let console = ConsoleChoice::read(&arguments.console)?;
    let mut ports = Ports::open(console, attached.then(terminal_size), &arguments.port)?;
    let root = Root::open(&guest, arguments, &mut attachments, &mut shares)?;
    let shared: Vec<_> = shares.iter().map(|share| share.directory.clone()).collect();
    let has_agent = match &own_initrd {
        Some(initrd) => initramfs::is_ours(initrd),
        None => matches!(guest, GuestChoice::Debian(_) | GuestChoice::Directory(_) | GuestChoice::Image(_)),
    };
    if let (Some(_), false) = (addresses.first(), has_agent) {
        return Err(Mistake(
            "--net ...,ip=: needs a Guest with lguest's own first process, as debian; the default Guest's command is net ip"
                .to_owned(),
        ));
    }
    let calls = arguments.vsock.is_some();
    let on_virtio = lguest32.is_none() && matches!(choice, BusChoice::Pci | BusChoice::Mmio(_));
    if calls && (own || !on_virtio) {
        return Err(Mistake(
            "--vsock: needs a Linux Guest on --bus pci or mmio, which has AF_VSOCK; name one, as debian"
                .to_owned(),
        ));
    }
    let (sockets, visits) = sockets(arguments, has_agent && on_virtio)?.unzip();
    let extras = Extras { ports: &mut ports, sockets };
    let bus = match lguest32 {
        Some(machine) => lguest32_spec(attachments, &extras, machine.pci)?,
        None if own => own_bus_spec(choice, attachments, shares, extras, cpus)?,
        None => bus_spec(choice, attachments, shares, extras, cpus)?,
    };
    let drivers = drivers(&bus, root.as_ref());
    let engine = match lguest32 {
        Some(_) => paravirtual::engine()?,
        None => engine::choose(&arguments.engine)?,
    };
    let gdb = debugger_place(arguments, engine.engine)?;
    let watching = Watching::read(arguments, engine.engine)?;
    let sockets = visits.is_some();
    let needs = Needs { internet, sockets, calls, ..needs(&bus, engine.engine, &watching, shared) };
    let sandbox = Sandbox::new(wish, needs);
    let cmdline = if own {
        if let Some(option) = wishes.option() {
            return Err(Mistake(format!(
                "{option}: the default Guest's commands have none; name another GUEST, as debian"
            )));
        }
        Some(default_guest::cmdline(cmdline.as_deref(), &arguments.command, attached)?)
    } else {
        cmdline
    };
    let (kernel, initrd) = match (&guest, given) {
        (GuestChoice::Debian(name), own_kernel) => {
            debian_files(name, own_kernel, own_initrd, &drivers, &progress)?
        }
        (GuestChoice::Directory(_) | GuestChoice::Image(_), own_kernel) => {
            root_files(own_kernel, &drivers, &progress)?
        }
        (GuestChoice::Kernel(_) | GuestChoice::Unsaid, Some(kernel)) => {
            (kernel, own_initrd.unwrap_or_default())
        }
        (GuestChoice::Kernel(_) | GuestChoice::Unsaid, None) => {
            (default_guest::image().into(), own_initrd.unwrap_or_default())
        }
    };
    // Only now, so that it stands right above what the Guest prints.
    let hint = if attached { "; Ctrl-A X stops the machine" } else { "" };
    terminal::say(&format!("engine {} ({}){hint}", engine::name(engine.engine), engine.reason));

    let ours = initramfs::is_ours(&initrd);
    let word = MarkWord::draw();
    let command = arguments.command.clone();
    let named = ports.named.iter().map(|(name, _)| name.clone()).collect();
    let line = Line { named, ..line(console) };
    let place = root.as_ref().map_or_else(RootPlace::here, Root::place);
    let session = Session {
        mode: Mode::here(attached),
        line,
        word: word.clone(),
        place,
        mounts,
        addresses,
        command,
        wishes,
    };
    let initrd = if ours { session.append_to(initrd) } else { initrd };
    check_room(initrd.len() as u64, kernel.program.length()?, memory)?;
    let cmdline = cmdline.unwrap_or_else(|| match (ours, attached) {
        (false, _) if lguest32.is_some() => paravirtual::USUAL_CMDLINE.to_owned(),
        (false, _) if console == ConsoleChoice::Virtio => ON_VIRTIO.to_owned(),
        (false, _) => USUAL_CMDLINE.to_owned(),
        (true, true) => format!("{USUAL_CMDLINE}{QUIET}"),
        (true, false) => format!("{USUAL_CMDLINE}{SILENT}"),
    });
    tracing::info!(memory, cpus, %cmdline, initrd = initrd.len(), "the machine");
    let stream = match (ours, attached) {
        (false, _) => Stream::Whole,
        (true, true) => Stream::UntilEnd(word),
        (true, false) => Stream::Session(word),
    };
    let spec = MachineSpec { engine: engine.engine, bus, memory, cpus, hidden, kernel, initrd, cmdline };
    // The first processes that are ours do not listen to the button.
    let record = Record::new(asked, memory, cpus, !ours && !own, ours && visits.is_some());
    let _image = image.map(|image| image.held);
    Ok(Plan {
        spec,
        stream,
        ours,
        own,
        attached,
        limit,
        watching,
        gdb,
        sandbox,
        record,
        ports,
        visits,
        _image,
    })
}

/// Sockets between Guest and host, where the user or the agent needs them. The agent's cost a boot nothing but their place.
fn sockets(arguments: &RunArguments, agent: bool) -> Result<Option<(Plug, Visits)>, Mistake> {
    let place = arguments.vsock.as_deref().map(sockets::Place::take).transpose()?;
    if place.is_none() && !agent {
        return Ok(None);
    }
    let asked = place.is_some();
    let (plug, visits) = sockets::start(place)
        .map_err(|cause| Mistake(format!("--vsock: the host refuses to serve it: {cause}")))?;
    Ok(Some((if asked { plug } else { plug.for_later() }, visits)))
}

/// Where `--gdb` waits.
fn debugger_place(arguments: &RunArguments, engine: Engine) -> Result<Option<Place>, Mistake> {
    let place = arguments.gdb.as_deref().map(Place::read).transpose()?;
    match engine {
        Engine::Kvm if place.is_some() => {
            Err(Mistake("--gdb: stops Guests on the translator only; add --engine translator".to_owned()))
        }
        _ => Ok(place),
    }
}

/// The machine waits for its debugger; the sandbox closes behind the connection.
fn wait_for_debugger(place: &Place, machine: &Machine, button: &StopButton) -> Result<gdb::Session, Mistake> {
    let listener = place.listen()?;
    terminal::say(&format!("waiting for a debugger: in gdb, target remote {}", listener.in_words()));
    let session = gdb::Session::wait(&listener, machine.summoner(), button.clone())?;
    machine.stop_at(session.desk.clone());
    Ok(session)
}

/// What this machine's vCPUs will ask of the host.
fn needs(bus: &BusSpec, engine: Engine, watching: &Watching, shares: Vec<Arc<OwnedFd>>) -> Needs {
    let (attachments, virtio): (&[Attachment], bool) = match bus {
        BusSpec::Virtio(virtio) => (&[], virtio.asked_for() > 0),
        BusSpec::Lguest(page) | BusSpec::Lguest32 { devices: page, .. } => (&[], page.asked_for() > 0),
        BusSpec::LguestDma { attachments, .. } => (attachments, false),
    };
    Needs {
        kvm: engine == Engine::Kvm,
        disks: virtio || attachments.iter().any(|one| matches!(one, Attachment::Disk(_))),
        watched: watching.is_wanted(),
        internet: false,
        sockets: false,
        calls: false,
        networks: attachments.iter().any(|one| matches!(one, Attachment::Link(_) | Attachment::Tap(_))),
        shares,
    }
}

/// The kernel that the user named.
fn given_kernel(guest: &GuestChoice, arguments: &RunArguments) -> Result<Option<Kernel>, Mistake> {
    match (guest, arguments.kernel.as_deref()) {
        (GuestChoice::Kernel(path), _) => open_kernel("GUEST", path).map(Some),
        (_, Some(path)) => open_kernel("--kernel", path).map(Some),
        (_, None) => Ok(None),
    }
}

fn check_guest(guest: &GuestChoice, arguments: &RunArguments) -> Result<(), Mistake> {
    match guest {
        GuestChoice::Kernel(path) if arguments.kernel.is_some() => Err(Mistake(format!(
            "--kernel: GUEST {} is a kernel already; give one of the two",
            path.display()
        ))),
        _ => Ok(()),
    }
}

/// A COMMAND needs a first process that reads it.
fn check_command(
    guest: &GuestChoice,
    own_initrd: Option<&[u8]>,
    arguments: &RunArguments,
    wishes: &Wishes,
) -> Result<(), Mistake> {
    let ours = match own_initrd {
        Some(initrd) => initramfs::is_ours(initrd),
        None => matches!(guest, GuestChoice::Debian(_) | GuestChoice::Directory(_) | GuestChoice::Image(_)),
    };
    let wanted = arguments.command.first().map(|command| format!("COMMAND {command}"));
    let Some(wanted) = wanted.or(wishes.option().map(str::to_owned)).filter(|_| !ours) else {
        return Ok(());
    };
    Err(Mistake(format!(
        "{wanted}: needs the Guest debian, the default Guest, or an --initrd built with lguest initramfs, whose first process runs it"
    )))
}

/// Where the session's terminal is.
fn line(console: ConsoleChoice) -> Line {
    match console {
        ConsoleChoice::Serial => Line::default(),
        ConsoleChoice::Virtio => Line { port: VIRTIO_CONSOLE, ..Line::default() },
    }
}

/// The terminal's size, as virtio has it.
fn terminal_size() -> Size {
    let TerminalSize { columns, rows } = terminal::size();
    Size { columns, rows }
}

/// Tells the Guest of every new size of the terminal.
fn follow_the_size(end: HostEnd) -> io::Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([signal_hook::consts::SIGWINCH])?;
    std::thread::spawn(move || signals.forever().for_each(|_| end.set_size(terminal_size())));
    Ok(())
}

fn start(plan: Plan, clock: &Arc<Clock>) -> Result<Ending, Mistake> {
    let supervisor = Supervisor::new();
    let button = supervisor.button();
    let cmdline = plan.spec.cmdline.clone();
    let console = Console::new(plan.ours);
    console.tell(clock.clone());
    let screen = console.screen(plan.stream.clone(), io::stdout(), button.clone());
    let first: Box<dyn Write + Send> = match &plan.ports.console {
        Some(end) => {
            end.write_to(screen)?;
            Box::new(console.kernel_log(plan.stream, io::stdout()))
        }
        None => Box::new(screen),
    };
    let mut machine = Machine::new(plan.spec, [first, Box::new(console.reports())])?;
    let watch = plan.watching.begin(&mut machine)?;
    let stopper = machine.stopper().with_ends(plan.ports.ends());
    let reason = supervisor.watch(stopper, plan.limit)?;
    let (source, raw) = match (plan.attached, plan.ours, plan.own) {
        (true, ..) => (Source::Keyboard, Some(RawTerminal::enter()?)),
        (false, true, _) => (Source::Pipe, None),
        (false, false, true) => (Source::Commands, None),
        (false, false, false) => (Source::Plain, None),
    };
    if source == Source::Pipe {
        input::answer_the_end(machine.console_input(CONTROL_PORT), console.clone());
    }
    let keyboard = match plan.ports.console.clone() {
        Some(end) => {
            if plan.attached {
                follow_the_size(end.clone())?;
            }
            ConsoleInput::Virtio(end)
        }
        None => machine.console_input(CONSOLE_PORT),
    };
    input::carry(source, io::stdin(), keyboard, console.clone(), button.clone());
    let debugger = plan.gdb.map(|place| wait_for_debugger(&place, &machine, &button)).transpose()?;
    let agent = plan.visits.filter(|_| plan.ours);
    let agent = agent.map(|visits| Agent::new(visits, machine.console_input(CONTROL_PORT), console.clone()));
    let _announced = running::announce(&plan.record, button.clone(), machine.power_button(), agent);
    plan.sandbox.close(&button)?;
    clock.note(Moment::Kernel);
    let (outcome, account) = watch.run(machine, &|| plan.sandbox.confine_vcpu());
    plan.ports.finish();
    clock.note(Moment::End);
    debugger.into_iter().for_each(gdb::Session::end);
    if raw.is_some() && console.line_is_open() {
        // The shell's prompt, or our sentence, begins a line of its own. A reader that is gone misses it.
        let _ = io::stderr().write_all(b"\r\n");
    }
    drop(raw);
    account.print();
    Ok(conclude(outcome, &cmdline, &reason, &console))
}

/// The first of: what was asked from outside, what the session reported, what the machine did.
fn conclude(outcome: Outcome, cmdline: &str, reason: &Reason, console: &Console) -> Ending {
    // A boot that failed in silence speaks now. A reader that is gone misses it.
    let _ = io::stderr().write_all(&console.take_kept());
    if let Some(ending) = reason.get() {
        return ending;
    }
    match (outcome, console.status()) {
        (Outcome::Dead(verdict), _) => Ending::Dead(match likely_cause(&verdict, cmdline) {
            Some(likely) => format!("{verdict}; {likely}"),
            None => verdict,
        }),
        (_, Some(status)) => Ending::Status(status),
        (Outcome::PowerOff, None) => Ending::PowerOff,
        (Outcome::Reset, None) => {
            Ending::Dead("it reset itself, after a panic or by reboot; its last lines may say why".to_owned())
        }
        (Outcome::Stopped, None) => Ending::Dead("it was stopped for no reason that lguest knows".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lguest_host::engine::HALTED_FOR_EVER;

    fn ended(outcome: Outcome, reports: &[u8]) -> Ending {
        let console = Console::new(true);
        console.reports().write_all(reports).unwrap();
        conclude(outcome, "", &Reason::default(), &console)
    }

    #[test]
    fn a_reported_status_is_the_ending() {
        assert_eq!(ended(Outcome::PowerOff, b"ready\nstatus 3\n"), Ending::Status(3));
        assert_eq!(ended(Outcome::Reset, b"ready\nstatus 0\n"), Ending::Status(0));
    }

    #[test]
    fn a_power_off_without_a_report_is_clean() {
        assert_eq!(ended(Outcome::PowerOff, b"ready\n"), Ending::PowerOff);
    }

    #[test]
    fn a_death_names_its_likely_cause() {
        let outcome = Outcome::Dead(HALTED_FOR_EVER.to_owned());
        let ending = conclude(outcome, "acpi=off", &Reason::default(), &Console::new(true));
        let sentence = ending.sentence().unwrap();
        assert!(sentence.contains("any more; acpi=off on the kernel's"), "{sentence}");
    }

    #[test]
    fn a_reset_without_a_report_is_a_death() {
        assert_eq!(ended(Outcome::Reset, b"ready\n").code(), 126);
    }

    #[test]
    fn a_guest_that_dies_after_its_report_is_dead() {
        let ending = ended(Outcome::Dead("triple fault".to_owned()), b"status 0\n");
        assert_eq!(ending, Ending::Dead("triple fault".to_owned()));
    }
}
