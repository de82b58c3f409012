//! What a way out of the Guest and back costs, and how long a notify takes to wake who listens for it; on each engine.
//!
//! The control interface's Guests of a few bytes: one reads a port where nobody is, over and over; the others watch a
//! word and notify when it changes, while a thread changes the word and sleeps on the eventfd: one of 64 bits by the calls of the first
//! generation, and one of 32 bits by those of the second, which the translator alone runs. A thread that watches the word by
//! itself and writes to the eventfd is the floor: what the kernel of this machine takes to wake somebody. And the notify's own part
//! is one that nobody sleeps on.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use lguest_abi::hypercall::{Hypercall, TRAP_ENTRY};
use lguest_abi::meeting::HYPERCALL_PORT;
use lguest_host::control::{Control, ControlError};
use lguest_host::memory::{GuestAddress, Memory, PAGE_SIZE};
use lguest_host::platform::Engine;
use lguest_translator::LongModeEntry;
use rustix::event::{EventfdFlags, eventfd};

const RAM: u64 = 1 << 20;
const CODE: u64 = 0x10000;
/// Where LGUEST_INIT's answer goes, the address notified, an address nobody listens at, and the word that is watched.
const DATA: u32 = 0x6000;
const BELL: u32 = 0x7000;
const DONE: u32 = 0x8;
const WORD: u32 = 0x6800;
/// What a paravirtual Guest shares with its Host.
const SHARED: u32 = 0x2_0000;
/// The engines, and how often a thing is done: a KVM that interprets has few exits in a second.
const ENGINES: [(Engine, &str, u32); 2] =
    [(Engine::Translator, "translator", 20_000), (Engine::Kvm, "kvm", 2_000)];

/// `mov r32, value`, by opcode.
fn load(code: &mut Vec<u8>, opcode: u8, value: u32) {
    code.push(opcode);
    code.extend(value.to_le_bytes());
}

/// A hypercall by port: eax the number, esi and ebx the arguments.
fn call(code: &mut Vec<u8>, call: Hypercall, first: u32, second: u32) {
    load(code, 0xb8, call as u32);
    load(code, 0xbe, first);
    load(code, 0xbb, second);
    load(code, 0xba, HYPERCALL_PORT.into());
    code.push(0xef);
}

/// Reads port 0x10 `times` times, then notifies where nobody listens.
fn reader(times: u32) -> Vec<u8> {
    let mut code = Vec::new();
    call(&mut code, Hypercall::Init, DATA, 0);
    load(&mut code, 0xb9, times);
    // in al, 0x10; dec ecx; jnz -6
    code.extend([0xe4, 0x10, 0xff, 0xc9, 0x75, 0xfa]);
    call(&mut code, Hypercall::Notify, 0, DONE);
    code
}

/// Notifies whenever the word changes.
fn watcher() -> Vec<u8> {
    let mut code = Vec::new();
    call(&mut code, Hypercall::Init, DATA, 0);
    // xor edi, edi
    code.extend([0x31, 0xff]);
    let top = code.len();
    // pause; mov eax, [WORD]; cmp eax, edi; je -13; mov edi, eax
    code.extend([0xf3, 0x90, 0x8b, 0x04, 0x25]);
    code.extend(WORD.to_le_bytes());
    code.extend([0x39, 0xf8, 0x74, 0xf3, 0x89, 0xc7]);
    call(&mut code, Hypercall::Notify, 0, BELL);
    let back = (top as isize - code.len() as isize - 2) as i8;
    code.extend([0xeb, back as u8]);
    code
}

/// The same in 32 bits, for a Host that keeps a processor of privilege level 1. `data` is the shared page.
fn watcher32(data: u32) -> Vec<u8> {
    let call = |code: &mut Vec<u8>, call: u32, argument: u32| {
        load(code, 0xb8, call);
        load(code, 0xbb, argument);
        code.extend([0xcd, TRAP_ENTRY]);
    };
    let mut code = Vec::new();
    call(&mut code, Hypercall::Init as u32, data);
    code.extend([0x31, 0xff]);
    let top = code.len();
    // pause; mov eax, [WORD]; cmp eax, edi; je -11; mov edi, eax
    code.extend([0xf3, 0x90, 0xa1]);
    code.extend(WORD.to_le_bytes());
    code.extend([0x39, 0xf8, 0x74, 0xf5, 0x89, 0xc7]);
    call(&mut code, Hypercall::Notify as u32, BELL);
    let back = (top as isize - code.len() as isize - 2) as i8;
    code.extend([0xeb, back as u8]);
    code
}

/// Notifies `times` times where an eventfd is, then where none is.
fn notifier32(data: u32, times: u32) -> Vec<u8> {
    let mut code = Vec::new();
    load(&mut code, 0xb8, Hypercall::Init as u32);
    load(&mut code, 0xbb, data);
    code.extend([0xcd, TRAP_ENTRY]);
    load(&mut code, 0xbf, times);
    load(&mut code, 0xb8, Hypercall::Notify as u32);
    load(&mut code, 0xbb, BELL);
    // int 0x1f; dec edi; jnz -5
    code.extend([0xcd, TRAP_ENTRY, 0x4f, 0x75, 0xfb]);
    load(&mut code, 0xbb, DONE);
    code.extend([0xcd, TRAP_ENTRY]);
    code
}

/// A paravirtual Guest with this code.
fn guest32(code: &[u8]) -> Result<(Control, Arc<Memory>), ControlError> {
    let memory = Arc::new(Memory::new(RAM).expect("a mebibyte"));
    let put = |at: u64, bytes: &[u8]| memory.write(GuestAddress(at), bytes).expect("in memory");
    put(CODE, code);
    // The shared page of 3.1's form: every slot of its ring free, where its kernel lies, its way to call (facts of generation 2, 5.1).
    put(u64::from(SHARED) + 24, &[0xff; 64]);
    put(u64::from(SHARED) + 1384, &0xc000_0000u32.to_le_bytes());
    put(u64::from(SHARED) + 1388, &0x80u32.to_le_bytes());
    let control = Control::open(Engine::Translator);
    control.initialize_lguest32(memory.clone(), RAM / PAGE_SIZE, CODE as u32)?;
    Ok((control, memory))
}

/// A Guest with this code: flat segments, and page tables for the first two mebibytes.
fn guest(engine: Engine, code: &[u8]) -> Result<(Control, Arc<Memory>), ControlError> {
    let memory = Arc::new(Memory::new(RAM).expect("a mebibyte"));
    let put = |at: u64, bytes: &[u8]| memory.write(GuestAddress(at), bytes).expect("in memory");
    put(0x1000, &0x2003u64.to_le_bytes());
    put(0x2000, &0x9003u64.to_le_bytes());
    put(0x9000, &0x83u64.to_le_bytes());
    put(0x3010, &0x00af_9b00_0000_ffffu64.to_le_bytes());
    put(0x3018, &0x00cf_9300_0000_ffffu64.to_le_bytes());
    put(CODE, code);
    let entry = LongModeEntry { rip: CODE, rsp: 0x8000, rsi: 0, cr3: 0x1000, gdt: 0x3000, gdt_limit: 0x1f };
    let control = Control::open(engine);
    control.initialize(memory.clone(), RAM / PAGE_SIZE, entry)?;
    Ok((control, memory))
}

/// Nanoseconds of one port read.
fn exit(engine: Engine, times: u32) -> Result<u128, ControlError> {
    let (control, _memory) = guest(engine, &reader(times))?;
    let begun = Instant::now();
    control.run(0, &mut [0; 16])?;
    Ok(begun.elapsed().as_nanos() / u128::from(times))
}

/// Nanoseconds from a `change` of the word to the waking of who reads the eventfd, the median of so many turns.
fn listen(bell: &OwnedFd, times: u32, change: impl Fn(u32)) -> u128 {
    let mut took: Vec<u128> = (1..=times)
        .map(|turn| {
            let begun = Instant::now();
            change(turn);
            rustix::io::read(bell, &mut [0; 8]).expect("an eventfd is read");
            begun.elapsed().as_nanos()
        })
        .collect();
    took.sort_unstable();
    took[took.len() / 2]
}

/// The same without a Guest.
fn wake_natively(times: u32) -> u128 {
    let bell = eventfd(0, EventfdFlags::empty()).expect("an eventfd");
    let word = AtomicU32::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut seen = 0;
            while seen != times {
                let now = word.load(Ordering::Acquire);
                if now != seen {
                    seen = now;
                    rustix::io::write(&bell, &1u64.to_ne_bytes()).expect("an eventfd is written");
                }
                std::hint::spin_loop();
            }
        });
        listen(&bell, times, |turn| word.store(turn, Ordering::Release))
    })
}

/// Nanoseconds of a NOTIFY that an eventfd takes and nobody waits for.
fn notify32(times: u32) -> Result<u128, ControlError> {
    let (control, _memory) = guest32(&notifier32(SHARED, times))?;
    control.eventfd(BELL.into(), eventfd(0, EventfdFlags::empty()).expect("an eventfd"))?;
    let begun = Instant::now();
    control.run(0, &mut [0; 16])?;
    Ok(begun.elapsed().as_nanos() / u128::from(times))
}

/// From a Guest.
fn wake(guest: Result<(Control, Arc<Memory>), ControlError>, times: u32) -> Result<u128, ControlError> {
    let (control, memory) = guest?;
    let bell = eventfd(0, EventfdFlags::empty()).expect("an eventfd");
    control.eventfd(BELL.into(), bell.try_clone().expect("a second descriptor"))?;
    std::thread::scope(|scope| {
        let listener = scope.spawn(|| {
            let took = listen(&bell, times, |turn| {
                memory.store_word(GuestAddress(WORD.into()), turn).expect("in memory");
            });
            control.break_out().expect("the Guest is alive");
            took
        });
        match control.run(0, &mut [0; 16]) {
            Err(ControlError::Again) => control.break_done()?,
            other => panic!("the Guest came back: {other:?}"),
        }
        Ok(listener.join().expect("the listener came to its end"))
    })
}

fn main() {
    println!("native notify_wake_ns {}", wake_natively(ENGINES[0].2));
    for (engine, name, times) in ENGINES {
        let figures = || Ok((exit(engine, times)?, wake(guest(engine, &watcher()), times)?));
        match figures() {
            Ok((exit, wake)) => println!("{name} exit_ns {exit} notify_wake_ns {wake}"),
            Err::<_, ControlError>(error) => eprintln!("{name} left out: {error}"),
        }
    }
    let times = ENGINES[0].2;
    match wake(guest32(&watcher32(SHARED)), times) {
        Ok(wake) => println!("lguest32 notify_wake_ns {wake}"),
        Err(error) => eprintln!("lguest32 left out: {error}"),
    }
    match notify32(times) {
        Ok(notify) => println!("lguest32-alone notify_wake_ns {notify}"),
        Err(error) => eprintln!("lguest32 left out: {error}"),
    }
}
