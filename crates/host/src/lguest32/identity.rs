//! Which processor these kernels are shown.
//!
//! `cpuid` is the user's too and nobody's secret, so it answers as the host's does. The kernels filter it for themselves, with one thing
//! left over: they call the family 5, whatever it is, and keep the model. AMD's family 5 was the K6, whose models from 6 on have registers of
//! their own that the kernels set without asking (arch/x86/kernel/cpu/amd.c, `init_amd_k6`), and at level 1 that is a fault
//! with nobody to mend it. On Intel's, model 9 is the Quark, which has no global pages. So a model like these is not shown.

use lguest_translator::cpu::Cpu;
use lguest_translator::cpu::cpuid::Cpuid;
use lguest_translator::{CpuidLeaf, HiddenFeatures, Options};

/// The leaf with family, model and stepping in eax.
const IDENTITY: u32 = 1;
/// The model's lower half, which is all that family 5 has.
const MODEL: u32 = 0xf0;
/// The first model of family 5 that has registers of its own, and one that has none.
const FIRST_K6: u32 = 0x60;
const PLAIN: u32 = 0x10;

/// Family, model and stepping as they are shown.
fn shown(signature: u32) -> u32 {
    if signature & MODEL < FIRST_K6 { signature } else { signature & !MODEL | PLAIN }
}

/// What the machine's only vCPU is made with.
pub(super) fn options(hidden: &HiddenFeatures) -> Options {
    let mut options = Options { index: 0, count: 1, cpuid: Vec::new(), hidden: hidden.clone() };
    let host = Cpuid::of_host(&options);
    let mut answer = host.answer(&Cpu::at_power_on(host.xcr0()), IDENTITY, 0);
    answer[0] = shown(answer[0]);
    options.cpuid.push(CpuidLeaf { leaf: IDENTITY, subleaf: 0, answer });
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_that_would_be_a_k6_is_shown_as_an_earlier_one() {
        assert_eq!(shown(0x00a1_0f11), 0x00a1_0f11);
        // Family 0x17 with the models 0x08 and 0x68, as many notebooks have them.
        assert_eq!(shown(0x0080_0f82), 0x0080_0f12);
        assert_eq!(shown(0x0086_0f81), 0x0086_0f11);
    }

    #[test]
    fn everything_else_is_as_the_host_has_it() {
        let plain = Cpuid::of_host(&Options { count: 1, ..Options::default() });
        let ours = Cpuid::of_host(&options(&HiddenFeatures::default()));
        let cpu = Cpu::at_power_on(plain.xcr0());
        assert_eq!(ours.signature(), shown(plain.signature()));
        for leaf in (0..=0x16).chain(0x8000_0000..=0x8000_0021) {
            let both = [&plain, &ours].map(|table| table.answer(&cpu, leaf, 0));
            assert_eq!(both[0][1..], both[1][1..], "{leaf:#x}");
        }
    }
}
