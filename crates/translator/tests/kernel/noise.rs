//! Random bytes as Guest code, by a supervisor and by a user: whatever comes of them, the host lives, stays small, and
//! what is not the Guest's is not touched.
//!
//! A machine lives until its Guest is beyond repair. Each exception goes on at fresh bytes, with registers that point
//! at what is likely to hurt. Ten seconds by default; `LGUEST_NOISE_SECONDS=1800 LGUEST_NOISE_SEED=7 cargo test --release
//! -p lguest-translator --test kernel raw_bytes` goes on for longer. The seed of a machine that hurts is printed;
//! `LGUEST_NOISE_MACHINE=<seed>` runs that machine alone.

use crate::machine::*;
use lguest_translator::cpu::segments::{DS, ES, Segment};
use lguest_translator::{Exit, Kicker, Ram, RamRegion};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long it goes on by default.
const SECONDS: u64 = 10;
/// Bytes of the memory file behind the Guest's RAM, which no Guest may reach.
const FORBIDDEN: u64 = 0x1_0000;
/// What they hold.
const CANARY: u8 = 0xc5;
/// Runs of one machine at most.
const MOST_RUNS: u32 = 400;
/// A run is kicked after this time.
const PATIENCE: Duration = Duration::from_millis(2);
/// A run that no kick ends within this time hangs.
const HANG: Duration = Duration::from_secs(20);
/// The process may take this much memory, tables of the host's included.
const MOST_MEMORY: u64 = 1 << 30;
/// Supervisor's memory that a user's machine must find unchanged: interrupt table, handlers, code, data.
const KEPT: [(u64, u64); 3] = [(0x4000, 0x4000), (CODE, 0x1000), (DATA, 0x1000)];

/// Marsaglia's xorshift.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// An address or number that is likely to hurt.
    fn register(&mut self) -> u64 {
        let near = self.below(32).wrapping_sub(16);
        let base = self.pick(&[
            USER_DATA + 0x1000,
            USER_DATA + 0x2000,
            USER_CODE + 0x1000,
            DATA,
            DATA + 0x1000,
            CODE,
            STACK,
            ROOT,
            RAM_BYTES,
            RAM_BYTES - 0x1000,
            DEVICE_PAGE,
            0x0000_8000_0000_0000,
            0xffff_8000_0000_0000,
            0x8000_0000_0040_1000,
            0,
            0x1_0000_0000,
        ]);
        match self.below(8) {
            0 => self.next(),
            1 => near,
            2 => 1 << self.below(64),
            _ => base.wrapping_add(near),
        }
    }
}

/// Where the machine has its descriptor table, which is longer than it says.
const DESCRIPTORS: u64 = 0x2000;

/// A linear page behind which there is a device.
const DEVICE_PAGE: u64 = 0x4f_f000;

/// Beginnings of instructions that do more than most; random bytes follow.
const BEGINNINGS: &[&[u8]] = &[
    &[0x0f, 0x01], // lgdt and its kin, swapgs, rdtscp, xsetbv, vmcall
    &[0x0f, 0x00], // sldt and its kin
    &[0x0f, 0x20],
    &[0x0f, 0x22], // mov crN
    &[0x0f, 0x21],
    &[0x0f, 0x23], // mov drN
    &[0x0f, 0x30],
    &[0x0f, 0x32], // wrmsr, rdmsr
    &[0x0f, 0x05],
    &[0x0f, 0x07],
    &[0x48, 0x0f, 0x07], // syscall, sysret
    &[0x48, 0xcf],
    &[0xcf],
    &[0xcb],
    &[0x48, 0xcb], // iret, far ret
    &[0xff],
    &[0x48, 0xff], // calls, jumps and pushes through memory
    &[0x8e],
    &[0x8c],
    &[0x0f, 0xa1],
    &[0x0f, 0xa9], // segments
    &[0x0f, 0xae],
    &[0x48, 0x0f, 0xae],
    &[0x0f, 0xc7],
    &[0x48, 0x0f, 0xc7], // fxsave, xsave, cmpxchg16b
    &[0xea],
    &[0x9a],
    &[0x60],
    &[0x61],
    &[0x62],
    &[0x63],
    &[0xc4],
    &[0x27],
    &[0xd4],                   // what only 16 and 32 bits have
    &[0x66, 0x0f, 0x38, 0x82], // invpcid
    &[0xf3, 0xa4],
    &[0xf3, 0x48, 0xab],
    &[0xf2, 0xae],
    &[0xf3, 0xa6],
    &[0xf3, 0x6c],
    &[0xf3, 0x6e], // strings
    &[0xc4],
    &[0xc5],
    &[0x62],
    &[0xd8],
    &[0xd9],
    &[0xdb],
    &[0xdd],
    &[0xdf], // x87
    &[0xf0],
    &[0x66],
    &[0x67],
    &[0x64],
    &[0x65],
    &[0x48],
    &[0x4c],
    &[0x41],
    &[0x9d],
    &[0x9c],
    &[0xfb],
    &[0xfa],
    &[0xf4],
    &[0xcc],
    &[0xcd],
    &[0xc9],
    &[0xc8],
    &[0x5c],
    &[0x54],
    &[0x48, 0x89],
    &[0x48, 0x8b],
    &[0x88],
    &[0xa4],
    &[0xe2],
    &[0xeb, 0xfe],
    &[0xe8, 0x00, 0x00, 0x00, 0x00],
    &[0x0f, 0xc1],
    &[0x0f, 0xb1],
    &[0x0f, 0xab],
    &[0x66, 0x0f, 0xf7],
    &[0x0f, 0x10],
    &[0x66, 0x0f, 0x3a],
    &[0x0f, 0x38],
];

/// A page of code: half the time bytes as they come, half the time with beginnings sown in.
fn code(noise: &mut Noise) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..4096).map(|_| noise.next() as u8).collect();
    if noise.below(2) == 0 {
        let mut place = 0;
        while place < 4080 {
            let beginning = noise.pick(BEGINNINGS);
            bytes[place..place + beginning.len()].copy_from_slice(beginning);
            place += beginning.len() + noise.below(6) as usize;
        }
    }
    bytes
}

/// Kicks what runs for long, and ends the process when that does not help.
struct Watch {
    /// Milliseconds since the start at which the run began; 0 while none is on.
    began: Arc<AtomicU64>,
    start: Instant,
}

impl Watch {
    fn on(kicker: Kicker, seed: u64) -> Watch {
        let began = Arc::new(AtomicU64::new(0));
        let (watched, start) = (began.clone(), Instant::now());
        std::thread::spawn(move || {
            while Arc::strong_count(&watched) > 1 {
                std::thread::sleep(PATIENCE);
                let since = watched.load(Ordering::Relaxed);
                if since != 0 && start.elapsed().as_millis() as u64 > since {
                    kicker.kick();
                    let ran = start.elapsed().saturating_sub(Duration::from_millis(since));
                    if ran > HANG {
                        eprintln!("the machine of seed {seed:#x} hangs");
                        std::process::abort();
                    }
                }
            }
        });
        Watch { began, start }
    }

    fn during<T>(&self, act: impl FnOnce() -> T) -> T {
        self.began.store(self.start.elapsed().as_millis() as u64 + 1, Ordering::Relaxed);
        let result = act();
        self.began.store(0, Ordering::Relaxed);
        result
    }
}

/// A machine with a canary behind its memory, and what it was made from.
struct Hostile {
    machine: Machine,
    file: std::fs::File,
    noise: Noise,
    user: bool,
    width: Width,
    kept: Vec<Vec<u8>>,
}

/// How wide a machine's code is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Width {
    Long,
    /// 32 bits with flat segments, which has units.
    Wide,
    /// 32 bits with nothing in DS and ES, which has none.
    Bare,
    Narrow,
}

impl Width {
    /// Selectors of code at both levels: see [`Hostile::lay_descriptors`].
    fn code(self, user: bool) -> Option<u64> {
        match (self, user) {
            (Width::Long, _) => None,
            (Width::Wide | Width::Bare, true) => Some(0x23),
            (Width::Wide | Width::Bare, false) => Some(0x58),
            (Width::Narrow, true) => Some(0x3b),
            (Width::Narrow, false) => Some(0x60),
        }
    }
}

impl Hostile {
    fn new(seed: u64) -> Hostile {
        let mut noise = Noise(seed | 1);
        let file = memory_file(RAM_BYTES + FORBIDDEN);
        file.write_all_at(&[CANARY; FORBIDDEN as usize], RAM_BYTES).expect("the file takes it");
        let regions = vec![RamRegion { start: 0, length: RAM_BYTES, offset: 0 }];
        let ram = Ram::new(&file, RAM_BYTES + FORBIDDEN, regions).expect("memory can be mapped");
        let mut machine = Machine::on(ram);
        machine.map(DEVICE_PAGE, DEVICE, P | W | U);
        machine.map(RAM_BYTES, RAM_BYTES, P | W | U);
        let user = noise.below(2) == 0;
        for page in 0..if user { 16 } else { 0 } {
            // Some of a user's data is only readable, some is not there, some is code as well.
            let rights = noise.pick(&[P | U | W, P | U | W, P | U, 0, P | U | W | NX]);
            machine.map(USER_DATA + 0x1000 * page, USER_DATA + 0x1000 * page, rights);
        }
        let width = noise.pick(&[Width::Long, Width::Long, Width::Wide, Width::Bare, Width::Narrow]);
        let kept = KEPT.map(|(at, length)| bytes(&machine, at, length)).to_vec();
        let mut hostile = Hostile { machine, file, noise, user, width, kept };
        hostile.lay_descriptors();
        hostile
    }

    /// Code of 32 bits for users (0x23) and the supervisor (0x58), code of 16 bits likewise (0x3b, 0x60), of 4 GiB each.
    fn lay_descriptors(&mut self) {
        let descriptors = [
            (0x20, 0x00cf_fb00_0000_ffff),
            (0x38, 0x008f_fb00_0000_ffff),
            (0x58, 0x00cf_9b00_0000_ffff),
            (0x60, 0x008f_9b00_0000_ffff),
        ];
        for (place, descriptor) in descriptors {
            self.machine.put(DESCRIPTORS + place, descriptor);
        }
        let cpu = self.machine.vcpu.cpu_mut();
        cpu.gdtr.limit = 0x67;
        // Where a `syscall` from 32-bit code arrives: at an exception, as one from 64-bit code does.
        cpu.cstar = CALLED;
    }

    /// Goes on at fresh bytes with fresh registers.
    fn aim(&mut self) {
        let code = code(&mut self.noise);
        let base = if self.user { USER_CODE } else { CODE + 0x2000 };
        let place = base + (self.noise.below(0x40) << 12);
        self.machine.load(place, &code);
        let at = place + self.noise.below(4096);
        if self.user {
            self.machine.start_user(at)
        } else {
            self.machine.start(at)
        }
        for register in (0..16).filter(|&r| r != reg::RSP) {
            let value = self.noise.register();
            self.machine.vcpu.set_gpr(register, value);
        }
        if let Some(selector) = self.width.code(self.user) {
            let frame = self.machine.vcpu.gpr(reg::RSP);
            self.machine.put(frame + 8, selector);
        }
        let data = match (self.width, self.user) {
            (Width::Wide, true) => Segment::flat_data(0x2b, 3),
            (Width::Wide, false) => Segment::flat_data(0x18, 0),
            _ => Segment::null(0),
        };
        (self.machine.vcpu.cpu_mut().segments[ES], self.machine.vcpu.cpu_mut().segments[DS]) = (data, data);
        if self.noise.below(4) == 0 {
            let rsp = self.noise.register();
            let frame = self.machine.vcpu.gpr(reg::RSP);
            self.machine.put(frame + 24, rsp);
        }
    }

    /// One run and what the host does about it; false when the Guest is beyond repair.
    fn run(&mut self, watch: &Watch) -> bool {
        let vcpu = &mut self.machine.vcpu;
        let window = self.noise.below(3) == 0;
        vcpu.request_interrupt_window(window);
        match watch.during(|| vcpu.run()) {
            Exit::PortIn { .. } | Exit::MmioRead { .. } => vcpu.reply(self.noise.next()),
            Exit::ReadMsr { .. } | Exit::WriteMsr { .. } => match self.noise.below(2) {
                0 => vcpu.refuse(),
                _ => vcpu.reply(self.noise.next()),
            },
            Exit::InterruptWindow => {
                assert!(vcpu.interruptible());
                vcpu.interrupt(self.noise.next() as u8);
            }
            // A handler was entered: nothing is to be learned from its return.
            Exit::PortOut { port: 0xf4, .. } | Exit::Kicked => {
                if self.noise.below(4) != 0 {
                    self.aim();
                }
            }
            Exit::Halt => self.aim(),
            Exit::PortOut { .. } | Exit::MmioWrite { .. } | Exit::Hypercall => {}
            Exit::Debug(_) => unreachable!("no debugger asked"),
            Exit::TripleFault | Exit::Event(_) | Exit::Dead(_) => return false,
        }
        true
    }

    fn check(&mut self) {
        let mut canary = vec![0; FORBIDDEN as usize];
        self.file.read_exact_at(&mut canary, RAM_BYTES).expect("the file is that long");
        assert!(canary.iter().all(|&byte| byte == CANARY), "memory behind the Guest's was written");
        if self.user {
            for ((at, length), before) in KEPT.into_iter().zip(&self.kept) {
                assert!(bytes(&self.machine, at, length) == *before, "a user wrote the supervisor's {at:#x}");
            }
        }
        let statistics = self.machine.vcpu.statistics();
        assert!(statistics.code_bytes <= 96 << 20, "{statistics:?}");
        let memory = crate::limits::process_memory("VmRSS") + crate::limits::process_memory("VmPTE");
        assert!(memory < MOST_MEMORY, "the process takes {} MiB: {statistics:?}", memory >> 20);
    }
}

fn bytes(machine: &Machine, at: u64, length: u64) -> Vec<u8> {
    let mut bytes = vec![0; length as usize];
    assert!(machine.ram.read(at, &mut bytes));
    bytes
}

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(format!("LGUEST_NOISE_{name}")).ok()?;
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    Some(parsed.unwrap_or_else(|_| panic!("LGUEST_NOISE_{name}={text} is not a number")))
}

/// Prints a machine's seed when its run panics.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("LGUEST_NOISE_MACHINE={:#x} is the machine that hurt", self.0);
        }
    }
}

fn run_machine(seed: u64) -> u32 {
    let _said_on_panic = Seed(seed);
    let mut hostile = Hostile::new(seed);
    let watch = Watch::on(hostile.machine.vcpu.kicker(), seed);
    hostile.aim();
    let mut runs = 1;
    while runs < MOST_RUNS && hostile.run(&watch) {
        runs += 1;
    }
    hostile.check();
    runs
}

#[test]
fn raw_bytes_never_hurt_the_host() {
    if let Some(seed) = setting("MACHINE") {
        run_machine(seed);
        return;
    }
    let mut seeds = Noise(setting("SEED").unwrap_or(1) << 1 | 1);
    let seconds = Duration::from_secs(setting("SECONDS").unwrap_or(SECONDS));
    let start = Instant::now();
    let (mut machines, mut runs) = (0u64, 0u64);
    while start.elapsed() < seconds {
        runs += u64::from(run_machine(seeds.next()));
        machines += 1;
    }
    println!("{machines} machines, {runs} runs");
    assert!(runs > machines, "no machine did anything");
}
