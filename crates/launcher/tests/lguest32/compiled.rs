//! A kernel in C and assembly (`guest/`), compiled here, that goes the whole way of Linux' in the forms of 2.6.32, 3.1 and 4.1: from
//! its entry by way of page tables, gates, the clock and its console's, disk's and network's drivers to a process and the end. Without
//! a C compiler that makes code of 32 bits these tests are skipped, and say so.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::kernel::{Finished, run};
use crate::program::{FORMS, Form};

/// What each Guest says before its devices.
const INITRD: &[u8] = b"hello, kernel\n\0";
/// In the disk's second sector, and what the Guest writes into its last but one.
const ON_DISK: &[u8] = b"the second sector of a real file\n";
const WRITTEN: &[u8] = b"written by a kernel of 32 bits\n";
const SECTORS: usize = 2048;

fn folder() -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("lguest32");
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lguest32/guest")
}

fn compile(arguments: &[&str], to: &Path) {
    run_to_its_end(
        Command::new("cc").args(["-m32", "-nostdlib", "-static"]).args(arguments).arg("-o").arg(to),
    );
}

/// Runs a command among the sources; what it printed.
#[track_caller]
fn run_to_its_end(command: &mut Command) -> String {
    let output = command.current_dir(sources()).output().expect("it was found before");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Whether there is a compiler; says so if not.
fn can_compile(test: &str) -> bool {
    let probe = folder().join(format!("probe-{test}"));
    let command = ["-m32", "-ffreestanding", "-c", "-x", "c", "/dev/null", "-o"];
    let can =
        Command::new("cc").args(command).arg(&probe).output().is_ok_and(|output| output.status.success());
    if !can {
        let skipped = format!("SKIPPED {test}: there is no cc here that compiles for 32 bits\n");
        std::io::stderr().lock().write_all(skipped.as_bytes()).expect("standard error takes a line");
    }
    can
}

/// The ELF file of a form, with tables of eight bytes or of four.
fn kernel(test: &str, form: Form, wide: bool) -> PathBuf {
    let path = folder().join(format!("{test}-{form:?}-{wide}"));
    let form = match form {
        Form::G26 => "26",
        Form::G31 => "31",
        Form::G41 => "41",
    };
    let tables = if wide { "wide" } else { "narrow" };
    run_to_its_end(Command::new("sh").args(["build.sh", form, tables]).arg(&path));
    path
}

/// Runs it with a disk and a network; what it left, and the disk.
fn machine(test: &str, kernel: &Path, options: &[&str], input: &str) -> (Finished, Vec<u8>) {
    let place = |what: &str| folder().join(format!("{test}-{what}"));
    let (initrd, disk) = (place("initrd"), place("disk"));
    std::fs::write(&initrd, INITRD).unwrap();
    let mut sectors = vec![0; 512 * SECTORS];
    sectors[512..512 + ON_DISK.len()].copy_from_slice(ON_DISK);
    std::fs::write(&disk, &sectors).unwrap();
    let text = |path: &Path| path.to_str().expect("a path of our own").to_owned();
    let (kernel, initrd, disk_text) = (text(kernel), text(&initrd), text(&disk));
    let mut words =
        vec!["run", "--kernel", &kernel, "--initrd", &initrd, "--memory", "64M", "--timeout", "60"];
    words.extend(["--disk", &disk_text, "--net", "user"]);
    words.extend(options);
    (run(&words, input), std::fs::read(&disk).unwrap())
}

#[track_caller]
fn assert_whole(name: &str, (finished, disk): &(Finished, Vec<u8>)) {
    assert_eq!(finished.status, Some(0), "{name}: {finished:?}");
    let mut said = finished.output.lines();
    // In this order, whatever else there is.
    for line in [
        "the clock runs",
        "the initrd says hello, kernel",
        "disk of 2048 sectors: the second sector of a real file",
        "the router answers",
        "a process says hello",
        "a process has ended",
        "a process says hello",
        "a process has ended",
    ] {
        assert!(said.any(|other| other == line), "{name}: {line}: {finished:?}");
    }
    for kind in ["net", "block", "console", "entropy"] {
        let count =
            finished.output.lines().filter(|line| line.starts_with("virtio") && line.ends_with(kind)).count();
        assert_eq!(count, 1, "{name}: {kind}: {finished:?}");
    }
    assert!(disk[512 * (SECTORS - 2)..].starts_with(WRITTEN), "{name}");
}

#[test]
fn a_kernel_of_each_form_drives_its_devices_runs_a_process_and_ends() {
    let test = "a_kernel_of_each_form_drives_its_devices_runs_a_process_and_ends";
    if !can_compile(test) {
        return;
    }
    for form in FORMS {
        for wide in [false, true] {
            let kernel = kernel(test, form, wide);
            let options = ["--bus", "lguest", "--cmdline", "console=hvc0 listen"];
            let ran = machine(test, &kernel, &options, "what a person types\n");
            assert_whole(&format!("{form:?}, wide {wide}"), &ran);
            for words in ["command line: console=hvc0 listen\n", "heard what a person types\n"] {
                assert!(ran.0.output.contains(words), "{form:?}, wide {wide}: {ran:?}");
            }
        }
    }
}

/// The bytes of the only segment of an ELF file, all that it takes in memory.
fn segment(elf: &[u8]) -> Vec<u8> {
    let word = |at: usize| u32::from_le_bytes(elf[at..at + 4].try_into().unwrap()) as usize;
    let header = word(28);
    let (offset, in_file, in_memory) = (word(header + 4), word(header + 16), word(header + 20));
    let mut bytes = elf[offset..offset + in_file].to_vec();
    bytes.resize(in_memory.next_multiple_of(4), 0);
    bytes
}

/// A bzImage whose code is this, with a payload at an offset of it (boot.rst, "The Real-Mode Kernel Header").
fn bzimage(code: &[u8], payload: std::ops::Range<usize>) -> Vec<u8> {
    const CODE_START: usize = 1024;
    let mut file = vec![0; CODE_START];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    let half = |at, value: u16| (at, u32::from(value), 2);
    for (at, value, width) in [
        (0x1f1, 1, 1),
        (0x1f4, code.len().div_ceil(16) as u32, 4),
        half(0x1fe, 0xaa55),
        half(0x200, 0x66eb),
        half(0x206, 0x020a),
        (0x211, 1, 1),
        (0x214, 0x10_0000, 4),
        (0x230, 0x100_0000, 4),
        (0x234, 1, 1),
        (0x248, payload.start as u32, 4),
        (0x24c, payload.len() as u32, 4),
        (0x258, 0x100_0000, 4),
        (0x260, 0x80_0000, 4),
    ] {
        put(at, &value.to_le_bytes()[..width]);
    }
    put(0x202, b"HdrS");
    file.extend(code);
    file.resize(CODE_START + code.len().next_multiple_of(16), 0);
    file
}

#[test]
fn a_bzimage_is_unpacked_and_started_from_what_came_out() {
    let test = "a_bzimage_is_unpacked_and_started_from_what_came_out";
    if !can_compile(test) {
        return;
    }
    for form in FORMS {
        let elf = std::fs::read(kernel(test, form, false)).unwrap();
        let mut packed = flate2::write::GzEncoder::new(vec![0xf4; 64], flate2::Compression::default());
        packed.write_all(&elf).unwrap();
        let code = packed.finish().unwrap();
        let image = folder().join(format!("{test}-{form:?}.bzImage"));
        std::fs::write(&image, bzimage(&code, 64..code.len())).unwrap();
        assert_whole(&format!("{form:?}"), &machine(test, &image, &["--bus", "lguest"], ""));
    }
}

#[test]
fn a_bzimage_that_nobody_else_unpacks_unpacks_itself_at_level_1() {
    let test = "a_bzimage_that_nobody_else_unpacks_unpacks_itself_at_level_1";
    if !can_compile(test) {
        return;
    }
    let own = folder().join(format!("{test}-unpack"));
    compile(&["-Wl,--oformat,binary", "-Wl,-Ttext=0", "-Wl,-e,start", "unpack.S"], &own);
    for (form, bus) in [(Form::G26, "lguest"), (Form::G31, "lguest"), (Form::G41, "pci")] {
        let kernel = segment(&std::fs::read(kernel(test, form, true)).unwrap());
        let mut code = std::fs::read(&own).unwrap();
        // The count of words is the last of it.
        let at = code.len() - 4;
        code[at..].copy_from_slice(&(kernel.len() as u32 / 4).to_le_bytes());
        let start = code.len();
        code.extend(kernel);
        let image = folder().join(format!("{test}-{form:?}.bzImage"));
        std::fs::write(&image, bzimage(&code, start..code.len())).unwrap();
        let ran = machine(test, &image, &["--machine", "lguest32", "--bus", bus], "");
        assert_whole(&format!("{form:?}"), &ran);
    }
}

#[test]
fn a_program_of_32_bits_computes_what_it_computes_natively() {
    let test = "a_program_of_32_bits_computes_what_it_computes_natively";
    if !can_compile(test) {
        return;
    }
    let program = folder().join("compute32");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bench/compute32.c");
    compile(&["-O2", "-ffreestanding", source.to_str().expect("a path of our own")], &program);
    // The middle word of a row is a time.
    let results = |said: &str| -> Vec<(String, String)> {
        let row = |line: &str| match line.split_whitespace().collect::<Vec<_>>()[..] {
            [name, ticks, check] if ticks.parse::<u32>().is_ok() && check.parse::<u32>().is_ok() => {
                Some((name.to_owned(), check.to_owned()))
            }
            _ => None,
        };
        said.lines().filter_map(row).collect()
    };
    let natively = Command::new(&program).output();
    let Some(natively) = natively.ok().filter(|output| output.status.success()) else {
        std::io::stderr()
            .lock()
            .write_all(format!("SKIPPED {test}: programs of 32 bits do not run here\n").as_bytes())
            .expect("standard error takes a line");
        return;
    };
    let natively = results(&String::from_utf8_lossy(&natively.stdout));
    assert!(natively.len() > 5, "{natively:?}");
    let kernel = kernel(test, Form::G31, true);
    let text = |path: &Path| path.to_str().expect("a path of our own").to_owned();
    let (kernel, program) = (text(&kernel), text(&program));
    let mut words =
        vec!["run", "--kernel", &kernel, "--initrd", &program, "--memory", "64M", "--timeout", "60"];
    words.extend(["--bus", "lguest", "--cmdline", "program"]);
    let finished = run(&words, "");
    assert_eq!(finished.status, Some(0), "{finished:?}");
    assert_eq!(results(&finished.output), natively);
}
