//! Features that the user hides from the Guest (`--cpu-features`), by the names that Linux gives them in /proc/cpuinfo.
//!
//! Hiding is a filter over `cpuid`'s finished table: what the engine does not offer cannot be asked back. Where hidden
//! instructions are a set of their own they are undefined too, as on a processor without them; the others (`abm` decodes as
//! older instructions, `erms` is only a promise) are merely not announced. What needs a hidden feature goes with it.
//! Instructions of what the table does not announce by itself are undefined for the same reason ([`AbsentSets`]): the
//! host's processor would say so only after their operands were looked up, and #UD comes before #PF.

use super::Cpuid;
use crate::Options;
use crate::cpu::xcr0;
use iced_x86::{CpuidFeature as F, Instruction, Mnemonic};

/// One feature: its name; leaf, subleaf and register (0 eax, 1 ebx, 2 ecx, 3 edx) and the bit there; what it needs; and its
/// instructions.
struct Feature {
    name: &'static str,
    word: (u32, u32, usize),
    bit: u8,
    needs: &'static str,
    instructions: &'static [F],
}

const fn feature(
    name: &'static str,
    word: (u32, u32, usize),
    bit: u8,
    needs: &'static str,
    instructions: &'static [F],
) -> Feature {
    Feature { name, word, bit, needs, instructions }
}

const BASIC_C: (u32, u32, usize) = (1, 0, 2);
const MORE_B: (u32, u32, usize) = (7, 0, 1);
const MORE_C: (u32, u32, usize) = (7, 0, 2);
const MORE_D: (u32, u32, usize) = (7, 0, 3);
const NEWER_A: (u32, u32, usize) = (7, 1, 0);
const XSAVE_A: (u32, u32, usize) = (0xd, 1, 0);
const EXTENDED_C: (u32, u32, usize) = (0x8000_0001, 0, 2);
const EXTENDED_D: (u32, u32, usize) = (0x8000_0001, 0, 3);

/// Linux' names (arch/x86/include/asm/cpufeatures.h) and the manuals' bits (SDM vol. 2, CPUID). What stands under `needs`
/// stands above.
const FEATURES: &[Feature] = &[
    feature("pni", BASIC_C, 0, "", &[F::SSE3]),
    feature("ssse3", BASIC_C, 9, "pni", &[F::SSSE3]),
    feature("sse4_1", BASIC_C, 19, "ssse3", &[F::SSE4_1]),
    feature("sse4_2", BASIC_C, 20, "sse4_1", &[F::SSE4_2]),
    feature("pclmulqdq", BASIC_C, 1, "", &[F::PCLMULQDQ]),
    feature("aes", BASIC_C, 25, "", &[F::AES]),
    feature("movbe", BASIC_C, 22, "", &[F::MOVBE]),
    feature("popcnt", BASIC_C, 23, "", &[F::POPCNT]),
    feature("rdrand", BASIC_C, 30, "", &[F::RDRAND]),
    feature("pcid", BASIC_C, 17, "", &[]),
    feature("xsave", BASIC_C, 26, "", &[F::XSAVE]),
    feature("xsaveopt", XSAVE_A, 0, "xsave", &[F::XSAVEOPT]),
    feature("xsavec", XSAVE_A, 1, "xsave", &[F::XSAVEC]),
    feature("avx", BASIC_C, 28, "xsave", &[F::AVX]),
    feature("fma", BASIC_C, 12, "avx", &[F::FMA]),
    feature("f16c", BASIC_C, 29, "avx", &[F::F16C]),
    feature("avx2", MORE_B, 5, "avx", &[F::AVX2]),
    feature("vaes", MORE_C, 9, "avx", &[F::VAES]),
    feature("vpclmulqdq", MORE_C, 10, "avx", &[F::VPCLMULQDQ]),
    feature("avx512f", MORE_B, 16, "avx2", &[F::AVX512F]),
    feature("avx512dq", MORE_B, 17, "avx512f", &[F::AVX512DQ]),
    feature("avx512ifma", MORE_B, 21, "avx512f", &[F::AVX512_IFMA]),
    feature("avx512cd", MORE_B, 28, "avx512f", &[F::AVX512CD]),
    feature("avx512bw", MORE_B, 30, "avx512f", &[F::AVX512BW]),
    feature("avx512vl", MORE_B, 31, "avx512f", &[F::AVX512VL]),
    feature("avx512vbmi", MORE_C, 1, "avx512f", &[F::AVX512_VBMI]),
    feature("avx512_vbmi2", MORE_C, 6, "avx512f", &[F::AVX512_VBMI2]),
    feature("avx512_vnni", MORE_C, 11, "avx512f", &[F::AVX512_VNNI]),
    feature("avx512_bitalg", MORE_C, 12, "avx512f", &[F::AVX512_BITALG]),
    feature("avx512_vpopcntdq", MORE_C, 14, "avx512f", &[F::AVX512_VPOPCNTDQ]),
    feature("avx512_vp2intersect", MORE_D, 8, "avx512f", &[F::AVX512_VP2INTERSECT]),
    feature("avx512_bf16", NEWER_A, 5, "avx512f", &[F::AVX512_BF16]),
    feature("avx_vnni", NEWER_A, 4, "avx2", &[F::AVX_VNNI]),
    feature("fsgsbase", MORE_B, 0, "", &[F::FSGSBASE]),
    feature("bmi1", MORE_B, 3, "", &[F::BMI1]),
    feature("bmi2", MORE_B, 8, "", &[F::BMI2]),
    feature("erms", MORE_B, 9, "", &[]),
    feature("invpcid", MORE_B, 10, "", &[F::INVPCID]),
    feature("rdseed", MORE_B, 18, "", &[F::RDSEED]),
    feature("adx", MORE_B, 19, "", &[F::ADX]),
    feature("smep", MORE_B, 7, "", &[]),
    feature("smap", MORE_B, 20, "", &[]),
    feature("clflushopt", MORE_B, 23, "", &[F::CLFLUSHOPT]),
    feature("clwb", MORE_B, 24, "", &[F::CLWB]),
    feature("sha_ni", MORE_B, 29, "", &[F::SHA]),
    feature("gfni", MORE_C, 8, "", &[F::GFNI]),
    feature("rdpid", MORE_C, 22, "", &[F::RDPID]),
    feature("fsrm", MORE_D, 4, "", &[]),
    feature("abm", EXTENDED_C, 5, "", &[]),
    feature("pdpe1gb", EXTENDED_D, 26, "", &[]),
    feature("rdtscp", EXTENDED_D, 27, "", &[F::RDTSCP]),
];

/// What each level of the x86-64 psABI ("Micro-Architecture Levels") leaves out, beside what the next one does.
const LEVELS: &[(&str, &[&str])] = &[
    ("x86-64-v4", &[]),
    ("x86-64-v3", &["avx512f"]),
    ("x86-64-v2", &["xsave", "bmi1", "bmi2", "abm", "movbe"]),
    ("x86-64-v1", &["pni", "popcnt"]),
];

/// A list of features that cannot be meant. Reads on after the option and its value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FeatureError {
    /// Not a name of the table.
    #[error("{0} is no feature that can be hidden; there are host, x86-64-v1 to x86-64-v4, and - or + before one of {names}", names = all_names())]
    Unknown(String),
    /// A level or `host` behind other words.
    #[error("{0} sets the whole list, so it comes first")]
    NotFirst(String),
}

/// What a Guest must not find.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HiddenFeatures {
    /// Places in the table.
    hidden: Vec<usize>,
}

impl HiddenFeatures {
    /// Reads a list: `host` or a level, then `-name` to hide and `+name` to show again, separated by commas.
    ///
    /// # Errors
    /// [`FeatureError`].
    pub fn read(list: &str) -> Result<HiddenFeatures, FeatureError> {
        let mut asked = vec![false; FEATURES.len()];
        for (n, word) in list.split(',').enumerate() {
            let level = LEVELS.iter().position(|(name, _)| *name == word);
            let (names, hide): (Vec<&str>, bool) =
                match (word.strip_prefix('-'), word.strip_prefix('+'), level) {
                    (Some(name), ..) => (vec![name], true),
                    (_, Some(name), _) => (vec![name], false),
                    (.., level) if level.is_some() || word == "host" => {
                        if n > 0 {
                            return Err(FeatureError::NotFirst(word.to_owned()));
                        }
                        let left_out = LEVELS.iter().take(level.map_or(0, |level| level + 1));
                        (left_out.flat_map(|(_, names)| names.iter().copied()).collect(), true)
                    }
                    _ => return Err(FeatureError::Unknown(word.to_owned())),
                };
            for name in names {
                let place = FEATURES.iter().position(|feature| feature.name == name);
                asked[place.ok_or_else(|| FeatureError::Unknown(word.to_owned()))?] = hide;
            }
        }
        Ok(HiddenFeatures { hidden: with_dependents(&asked) })
    }

    /// Takes the hidden features out of an answer of `cpuid`: eax, ebx, ecx, edx.
    pub fn filter(&self, leaf: u32, subleaf: u32, answer: &mut [u32; 4]) {
        for feature in self.features() {
            let (of, sub, register) = feature.word;
            if (of, sub) == (leaf, subleaf) {
                answer[register] &= !(1 << feature.bit);
            }
        }
    }

    /// What is left of the vector state that XCR0 may hold. Without `xsave` nothing is.
    pub fn state(&self, offered: u64) -> u64 {
        /// Masks, upper halves of zmm0 to 15, and zmm16 to 31 (SDM vol. 1, 13.1).
        const AVX512: u64 = 0xe0;
        let hides = |name| self.features().any(|feature| feature.name == name);
        match (hides("xsave"), hides("avx"), hides("avx512f")) {
            (true, ..) => 0,
            (_, true, _) => offered & !(AVX512 | xcr0::AVX),
            (.., true) => offered & !AVX512,
            _ => offered,
        }
    }

    fn features(&self) -> impl Iterator<Item = &'static Feature> {
        self.hidden.iter().map(|&place| &FEATURES[place])
    }
}

/// Sets of instructions that a processor does not have: one bit for each that iced knows.
#[derive(Debug, Clone, Copy, Default)]
pub struct AbsentSets([u64; SET_WORDS]);

/// iced knows fewer than 64 times as many.
const SET_WORDS: usize = 4;

impl AbsentSets {
    /// Those of the table's features that the answers of `cpuid` (leaf and subleaf to eax, ebx, ecx and edx) do not name.
    pub fn of(answer: impl Fn(u32, u32) -> [u32; 4]) -> AbsentSets {
        let mut absent = AbsentSets::default();
        for feature in FEATURES {
            let (leaf, subleaf, register) = feature.word;
            if answer(leaf, subleaf)[register] & 1 << feature.bit == 0 {
                for &set in feature.instructions {
                    absent.0[set as usize / 64] |= 1 << (set as usize % 64);
                }
            }
        }
        absent
    }

    /// True for an instruction of such a set.
    pub fn hold(&self, instruction: &Instruction) -> bool {
        let absent = |&set: &F| self.0[set as usize / 64] >> (set as usize % 64) & 1 != 0;
        // Kernels write `rep bsf` without asking: on a processor that does not know `tzcnt` it is `bsf`.
        instruction.cpuid_features().iter().any(absent) && instruction.mnemonic() != Mnemonic::Tzcnt
    }
}

/// What is asked, and what needs it. Needs stand above, so one pass down the table finds all.
fn with_dependents(asked: &[bool]) -> Vec<usize> {
    let mut hidden: Vec<usize> = Vec::new();
    for (place, feature) in FEATURES.iter().enumerate() {
        let lost = hidden.iter().any(|&other| FEATURES[other].name == feature.needs);
        if asked[place] || lost {
            hidden.push(place);
        }
    }
    hidden
}

/// The names of what a Guest finds on this host when nothing is hidden.
pub fn offered_features() -> Vec<&'static str> {
    let table = Cpuid::of_host(&Options::default());
    let offered = |feature: &&Feature| {
        let (leaf, subleaf, register) = feature.word;
        table.stored(leaf, subleaf)[register] & 1 << feature.bit != 0
    };
    FEATURES.iter().filter(offered).map(|feature| feature.name).collect()
}

fn all_names() -> String {
    let names: Vec<&str> = FEATURES.iter().map(|feature| feature.name).collect();
    names.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions};

    fn names(list: &str) -> Vec<&'static str> {
        HiddenFeatures::read(list).unwrap().features().map(|feature| feature.name).collect()
    }

    #[test]
    fn what_needs_a_hidden_feature_is_hidden_with_it() {
        assert_eq!(names("-avx512f").len(), 13);
        assert!(names("-avx").contains(&"avx512vl") && names("-avx").contains(&"fma"));
        assert_eq!(names("-sse4_2"), ["sse4_2"]);
    }

    #[test]
    fn a_level_hides_what_the_psabi_leaves_out_and_plus_shows_again() {
        assert!(names("host").is_empty() && names("x86-64-v4").is_empty());
        assert!(names("x86-64-v2").contains(&"avx2") && !names("x86-64-v2").contains(&"popcnt"));
        assert!(!names("x86-64-v2,+movbe").contains(&"movbe"));
        assert!(names("x86-64-v1").contains(&"sse4_2"));
    }

    #[test]
    fn a_word_that_is_no_feature_is_named_with_what_there_is() {
        for list in ["-avx3", "avx", "", "-avx,", "-", "x86-64-v5", "host,-nope"] {
            let error = HiddenFeatures::read(list).unwrap_err().to_string();
            assert!(error.contains("sse4_2"), "{list}: {error}");
        }
        let error = HiddenFeatures::read("-avx,host").unwrap_err().to_string();
        assert!(error.starts_with("host sets the whole list"), "{error}");
    }

    #[test]
    fn answers_and_state_lose_what_is_hidden_and_nothing_else() {
        let hidden = HiddenFeatures::read("-avx2").unwrap();
        let mut answer = [u32::MAX; 4];
        hidden.filter(7, 0, &mut answer);
        assert_eq!(answer[1] & 1 << 5, 0);
        assert_eq!(answer[0], u32::MAX);
        assert_eq!(hidden.state(0xe7), 7);
        assert_eq!(HiddenFeatures::read("-avx").unwrap().state(0xe7), 3);
        assert_eq!(HiddenFeatures::read("-xsave").unwrap().state(0xe7), 0);
    }

    #[test]
    fn hidden_instructions_are_those_of_hidden_sets() {
        let decode = |bytes: &[u8]| Decoder::new(64, bytes, DecoderOptions::NONE).decode();
        let absent = |list: &str| {
            let hidden = HiddenFeatures::read(list).unwrap();
            AbsentSets::of(|leaf, subleaf| {
                let mut everything = [u32::MAX; 4];
                hidden.filter(leaf, subleaf, &mut everything);
                everything
            })
        };
        let hidden = absent("-avx2,-popcnt");
        assert!(hidden.hold(&decode(&[0xc5, 0xfd, 0xfe, 0xc0])), "vpaddd ymm");
        assert!(!hidden.hold(&decode(&[0xc5, 0xf8, 0x58, 0xc0])), "vaddps xmm");
        assert!(hidden.hold(&decode(&[0xf3, 0x0f, 0xb8, 0xc0])), "popcnt");
        assert!(!hidden.hold(&decode(&[0x90])));
        assert!(!absent("x86-64-v1").hold(&decode(&[0xf3, 0x0f, 0xbc, 0xc0])), "tzcnt, which is rep bsf");
        let nothing = AbsentSets::of(|_, _| [0; 4]);
        assert!(nothing.hold(&decode(&[0xc4, 0xe2, 0x71, 0x52, 0xc2])), "vpdpwssd, of AVX-VNNI");
        assert!(!nothing.hold(&decode(&[0x0f, 0xa2])), "cpuid");
    }

    #[test]
    fn every_set_has_a_bit() {
        assert!(F::values().all(|set| (set as usize) < 64 * SET_WORDS));
    }

    #[test]
    fn what_is_offered_here_can_be_hidden_here() {
        let offered = offered_features();
        assert!(offered.contains(&"sse4_2"), "every host that runs the translator has it: {offered:?}");
        let hidden = HiddenFeatures::read("-avx2,-sse4_2").unwrap();
        let table = Cpuid::of_host(&Options { hidden, ..Options::default() });
        assert_eq!(table.stored(1, 0)[2] & 1 << 20, 0);
        assert_eq!(table.stored(7, 0)[1] & 1 << 5, 0);
    }

    #[test]
    fn needs_stand_above() {
        for (place, feature) in FEATURES.iter().enumerate() {
            let above = FEATURES[..place].iter().any(|other| other.name == feature.needs);
            assert!(feature.needs.is_empty() || above, "{}", feature.name);
        }
    }
}
