//! An ELF file of 32 bits around a program: one segment from [`CODE`] to the end of the kernel's stacks.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

pub use crate::program::*;

/// Where the segment begins and ends.
const START: u32 = CODE;
const END: u32 = TRAP_STACK;
/// Memory of these machines.
pub const MACHINE: u32 = 64 << 20;
/// Longest that one run may take.
const PATIENCE: Duration = Duration::from_secs(100);

/// A kernel being made.
pub struct Kernel {
    image: Vec<u8>,
    pub form: Form,
}

impl Kernel {
    /// A kernel whose code `write` writes, with what every kernel has.
    pub fn new(form: Form, write: impl FnOnce(&mut Program)) -> Kernel {
        let mut kernel = Kernel { image: vec![0; (END - START) as usize], form };
        let mut program = Program::new(form);
        write(&mut program);
        kernel.load(CODE, &program.bytes);
        let banner = match form {
            Form::G26 => "Linux version 2.6.32.9 (made here)\n\0",
            Form::G31 => "Linux version 3.1.10 (made here)\n\0",
            Form::G41 => "Linux version 4.1.15 (made here)\n\0",
        };
        kernel.load(BANNER, banner.as_bytes());
        kernel.load(BANNER + 0x100, b"LGUEST\0");
        kernel.load(POWER_DOWN, b"Power down\0");
        kernel.put(DATA + data::BLOCKED, 1);
        kernel.load(DATA + data::STATUS, &[0xff; 64]);
        let nothing = 0xffff_fff0;
        let words = match form {
            Form::G26 => vec![0, nothing, nothing, KERNEL, 0x80],
            Form::G31 => vec![nothing, nothing, KERNEL, 0x80],
            Form::G41 => vec![nothing, KERNEL, 0x80],
        };
        for (n, word) in (0..).zip(words) {
            kernel.put(DATA + data::FORM + 4 * n, word);
        }
        for slot in [0, KERNEL >> 22] {
            kernel.put(DIRECTORY + 4 * slot, TABLE | 7);
        }
        for page in 0..1024 {
            let user = if (USER >> 12..USER_STACK >> 12).contains(&page) { 4 } else { 0 };
            kernel.put(TABLE + 4 * page, page << 12 | 3 | user);
        }
        // Behind the end of memory, at their own addresses: what devices have there.
        kernel.put(DIRECTORY + 4 * (MACHINE >> 22), DEVICES | 7);
        for page in 0..1024 {
            kernel.put(DEVICES + 4 * page, (MACHINE + (page << 12)) | 3);
        }
        kernel
    }

    pub fn load(&mut self, at: u32, bytes: &[u8]) {
        let at = (at - START) as usize;
        self.image[at..at + bytes.len()].copy_from_slice(bytes);
    }

    pub fn put(&mut self, at: u32, value: u32) {
        self.load(at, &value.to_le_bytes());
    }

    pub fn handle(mut self, vector: u32, write: impl FnOnce(&mut Program)) -> Kernel {
        let mut program = Program::new(self.form);
        write(&mut program);
        assert!(program.bytes.len() <= 256, "a handler of {} bytes", program.bytes.len());
        self.load(HANDLERS + 256 * vector, &program.bytes);
        self
    }

    pub fn user(mut self, write: impl FnOnce(&mut Program)) -> Kernel {
        let mut program = Program::new(self.form);
        write(&mut program);
        self.load(USER, &program.bytes);
        self
    }

    /// Its file: ELF32, EM_386, entered by a physical address.
    pub fn file(&self) -> Vec<u8> {
        let mut file = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x03\0\x01\0\0\0".to_vec();
        let mut words = |words: &[u32]| words.iter().for_each(|word| file.extend(word.to_le_bytes()));
        words(&[CODE, 52, 0, 0, 52 | 32 << 16, 1, 0]);
        words(&[1, 0x1000, KERNEL + START, START, END - START, END - START, 7, 0x1000]);
        file.resize(0x1000, 0);
        file.extend(&self.image);
        file
    }

    /// The file in a folder of the test's own.
    pub fn write(&self, test: &str) -> PathBuf {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("lguest32");
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join(format!("{test}-{:?}", self.form));
        std::fs::write(&path, self.file()).unwrap();
        path
    }

    /// Runs it.
    pub fn run(&self, test: &str, options: &[&str], input: &str) -> Finished {
        let path = self.write(test);
        let memory = format!("{}M", MACHINE >> 20);
        let mut words =
            vec!["run", "--kernel", path.to_str().unwrap(), "--memory", &memory, "--timeout", "60"];
        words.extend(options);
        run(&words, input)
    }
}

/// Places inside the kernel that only these tests use.
pub const POWER_DOWN: u32 = 0x21_3000;
pub const BANNER: u32 = 0x21_4000;
pub const DEVICES: u32 = 0x22_3000;
/// Scratch for what a driver puts into rings, and its texts.
pub const BUFFERS: u32 = 0x23_0000;

/// What a run left behind.
#[derive(Debug)]
pub struct Finished {
    pub status: Option<i32>,
    pub output: String,
    pub messages: String,
}

/// Runs the command.
pub fn run(words: &[&str], input: &str) -> Finished {
    let mut child = Command::new(env!("CARGO_BIN_EXE_lguest"))
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the built command starts");
    let mut stdin = child.stdin.take().unwrap();
    let _ = stdin.write_all(input.as_bytes());
    let began = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if began.elapsed() > PATIENCE {
            let _ = child.kill();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(stdin);
    let out = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Finished { status: out.status.code(), output: text(out.stdout), messages: text(out.stderr) }
}

impl Program {
    /// INIT and tables, then an early console's text.
    pub fn power_down(&mut self) {
        self.call(call::SHUTDOWN, [POWER_DOWN, 1, 0]);
    }
}
