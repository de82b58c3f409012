//! What cannot work is refused before anything starts, and what a kernel does wrong is told in one sentence.

use crate::kernel::*;

#[test]
fn options_that_this_machine_does_not_have_are_named() {
    let kernel = Kernel::new(Form::G31, |program| program.begin());
    for (options, word) in [
        (&["--cpus", "2"][..], "--cpus 2"),
        (&["--engine", "kvm"], "--engine kvm"),
        (&["--bus", "mmio"], "--bus mmio"),
        (&["--share", "/"], "--share"),
        (&["--machine", "toaster"], "--machine toaster"),
        (&["--memory", "3G"], "--memory 3072M"),
    ] {
        let path = kernel.write("options");
        let mut words = vec!["run", "--kernel", path.to_str().unwrap()];
        words.extend(options);
        let finished = run(&words, "");
        assert_eq!(finished.status, Some(125), "{options:?}: {finished:?}");
        assert!(finished.messages.contains(word), "{options:?}: {finished:?}");
    }
}

#[test]
fn a_kernel_that_breaks_a_rule_dies_with_a_sentence() {
    let kernel = Kernel::new(Form::G31, |program| {
        program.begin();
        program.call(call::NOTIFY, [MACHINE + 0x80_0000, 0, 0]);
    });
    let finished = kernel.run("wild", &[], "");
    assert_eq!(finished.status, Some(126), "{finished:?}");
    assert!(finished.messages.contains("0x4800000"), "{finished:?}");
    let kernel = Kernel::new(Form::G41, |program| program.db(&[0x0f, 0x0b]));
    let finished = kernel.run("undefined", &[], "");
    assert_eq!(finished.status, Some(126), "{finished:?}");
    assert!(finished.messages.contains("trap 6"), "{finished:?}");
}
