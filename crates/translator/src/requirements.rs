//! What a host must have to run generated code: one list, for the engine that refuses and for whoever explains.

#![allow(unsafe_code)] // The auxiliary vector is only reached through libc.

/// Bit of AT_HWCAP2 that says programs may use `wrgsbase` (Linux, arch/x86/include/uapi/asm/hwcap2.h).
const HWCAP2_FSGSBASE: u64 = 1 << 1;

/// One thing that generated code uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Requirement {
    /// The processor feature's name, as /proc/cpuinfo writes it.
    pub name: &'static str,
    /// What for.
    pub purpose: &'static str,
    /// Where it is found.
    pub since: &'static str,
    /// Whether this host has it, system support included.
    pub present: bool,
}

/// Everything needed, and whether it is there.
pub fn requirements() -> [Requirement; 3] {
    // SAFETY: asks for a word of the auxiliary vector.
    let hwcap2 = unsafe { libc::getauxval(libc::AT_HWCAP2) };
    [
        Requirement {
            name: "bmi2",
            purpose: "address work that leaves the flags alone (pext, rorx)",
            since: "Intel since Haswell, AMD since Excavator",
            present: std::is_x86_feature_detected!("bmi2"),
        },
        Requirement {
            name: "avx2",
            purpose: "keeping the Guest's vector registers (ymm)",
            since: "Intel since Haswell, AMD since Excavator",
            present: std::is_x86_feature_detected!("avx2"),
        },
        Requirement {
            name: "fsgsbase",
            purpose: "switching address spaces with one instruction (wrgsbase)",
            since: "Linux 5.9 or newer on a processor since Ivy Bridge",
            present: hwcap2 & HWCAP2_FSGSBASE != 0,
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_host_says_of_itself_agrees_with_its_list() {
        let text = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        let flags = text.lines().find(|line| line.starts_with("flags")).unwrap();
        for requirement in requirements() {
            let listed = flags.split_whitespace().any(|flag| flag == requirement.name);
            assert_eq!(requirement.present, listed, "{}", requirement.name);
        }
    }
}
