//! The few host instructions that the translator writes itself, byte by byte.
//!
//! Guest instructions are re-encoded by iced-x86; what stands around them (address translation, register moves,
//! jumps) is written here, because these dozen forms make up most of the output and a table-driven encoder costs
//! forty nanoseconds for each of them. Encodings: Intel SDM volume 2, chapter 2.

/// A host general register by encoding number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reg(pub u8);

/// Host registers with a fixed job in generated code.
pub mod host {
    use super::Reg;
    /// The accumulator: the only home of `lahf`.
    pub const RAX: Reg = Reg(0);
    /// The counter: the only register `jrcxz` tests.
    pub const RCX: Reg = Reg(1);
    /// Points at the vCPU's [`crate::frame::Frame`]; below it is a small stack.
    pub const FRAME: Reg = Reg(4);
    /// Holds the Guest's stack pointer.
    pub const GUEST_RSP: Reg = Reg(9);
    /// First scratch register: effective addresses, jump targets.
    pub const S0: Reg = Reg(10);
    /// Second scratch register: table indices, addends.
    pub const S1: Reg = Reg(11);
}

/// A memory operand: `[base + index * scale + displacement]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mem {
    /// Base register.
    pub base: Option<Reg>,
    /// Index register and scale 1, 2, 4 or 8.
    pub index: Option<(Reg, u8)>,
    /// Displacement in bytes.
    pub disp: i32,
}

impl Mem {
    /// `[base + disp]`
    pub fn at(base: Reg, disp: i32) -> Mem {
        Mem { base: Some(base), index: None, disp }
    }
    /// `[base + index]`
    pub fn sum(base: Reg, index: Reg, disp: i32) -> Mem {
        Mem { base: Some(base), index: Some((index, 1)), disp }
    }
    /// A field of the vCPU's frame.
    pub fn frame(offset: usize) -> Mem {
        Mem::at(host::FRAME, offset as i32)
    }
}

/// Condition codes as `jcc`, `setcc` and `cmovcc` encode them.
pub mod cond {
    /// Not below, unsigned.
    pub const AE: u8 = 3;
    /// Zero, equal.
    pub const Z: u8 = 4;
    /// Above, unsigned.
    pub const A: u8 = 7;
    /// Not zero, not equal.
    pub const NZ: u8 = 5;
}

/// A place in a [`Code`] that a jump still has to learn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct Patch(pub usize);

/// A growing run of host code.
#[derive(Debug, Default)]
pub struct Code {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// What of it stands elsewhere.
    pub apart: Option<Apart>,
}

/// The end of a [`Code`] that will not stand behind its beginning.
#[derive(Debug, Clone, Copy)]
pub struct Apart {
    /// The first byte of it.
    pub from: usize,
    /// Bytes between the beginning's end and it; negative when it stands before.
    pub gap: i64,
}

impl Code {
    /// Bytes so far.
    pub fn here(&self) -> usize {
        self.bytes.len()
    }

    /// Raw bytes.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// A little-endian 32-bit word.
    pub fn dword(&mut self, value: u32) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// `prefix REX opcode modrm` with a memory operand. `wide` is REX.W; opcode bytes as given.
    fn with_memory(&mut self, prefix: &[u8], wide: bool, opcode: &[u8], reg: u8, mem: Mem) {
        self.raw(prefix);
        let base = mem.base.map_or(0, |r| r.0);
        let index = mem.index.map_or(0, |(r, _)| r.0);
        let rex = 0x40 | u8::from(wide) << 3 | (reg >> 3) << 2 | (index >> 3) << 1 | base >> 3;
        if rex != 0x40 {
            self.bytes.push(rex);
        }
        self.raw(opcode);
        self.modrm(reg, mem);
    }

    /// ModRM, SIB and displacement of a memory operand.
    fn modrm(&mut self, reg: u8, mem: Mem) {
        let reg = (reg & 7) << 3;
        let Some(base) = mem.base else {
            let (index, scale) = mem.index.map_or((4, 1), |(r, s)| (r.0 & 7, s));
            self.bytes.push(reg | 4);
            self.bytes.push((scale.trailing_zeros() as u8) << 6 | index << 3 | 5);
            self.dword(mem.disp as u32);
            return;
        };
        let low = base.0 & 7;
        let (mode, short) = match mem.disp {
            0 if low != 5 => (0x00, None),
            d => match i8::try_from(d) {
                Ok(d) => (0x40, Some(d)),
                Err(_) => (0x80, None),
            },
        };
        match mem.index {
            None if low != 4 => self.bytes.push(mode | reg | low),
            None => self.raw(&[mode | reg | 4, 0x20 | low]),
            Some((index, scale)) => {
                self.raw(&[mode | reg | 4, (scale.trailing_zeros() as u8) << 6 | (index.0 & 7) << 3 | low]);
            }
        }
        match (mode, short) {
            (0x40, Some(d)) => self.bytes.push(d as u8),
            (0x80, _) => self.dword(mem.disp as u32),
            _ => {}
        }
    }

    /// `REX opcode modrm` between registers; `rm` is the r/m field.
    fn with_register(&mut self, wide: bool, opcode: &[u8], reg: u8, rm: u8) {
        let rex = 0x40 | u8::from(wide) << 3 | (reg >> 3) << 2 | rm >> 3;
        if rex != 0x40 {
            self.bytes.push(rex);
        }
        self.raw(opcode);
        self.bytes.push(0xc0 | (reg & 7) << 3 | rm & 7);
    }

    /// `mov to, from` (64 bits)
    pub fn mov(&mut self, to: Reg, from: Reg) {
        self.with_register(true, &[0x89], from.0, to.0);
    }
    /// `mov to, [mem]` (64 bits)
    pub fn load(&mut self, to: Reg, mem: Mem) {
        self.with_memory(&[], true, &[0x8b], to.0, mem);
    }
    /// `mov [mem], from` (64 bits)
    pub fn store(&mut self, mem: Mem, from: Reg) {
        self.with_memory(&[], true, &[0x89], from.0, mem);
    }
    /// `mov to32, [mem]`
    pub fn load32(&mut self, to: Reg, mem: Mem) {
        self.with_memory(&[], false, &[0x8b], to.0, mem);
    }
    /// `mov [mem], from32`
    pub fn store32(&mut self, mem: Mem, from: Reg) {
        self.with_memory(&[], false, &[0x89], from.0, mem);
    }
    /// `mov qword [mem], sign-extended value`
    pub fn store_immediate(&mut self, mem: Mem, value: i32) {
        self.with_memory(&[], true, &[0xc7], 0, mem);
        self.dword(value as u32);
    }
    /// `mov dword [mem], value`
    pub fn store32_immediate(&mut self, mem: Mem, value: u32) {
        self.with_memory(&[], false, &[0xc7], 0, mem);
        self.dword(value);
    }
    /// The shortest `mov to, value` (64 bits); leaves flags alone.
    pub fn constant(&mut self, to: Reg, value: u64) {
        if let Ok(short) = u32::try_from(value) {
            if to.0 >= 8 {
                self.bytes.push(0x41);
            }
            self.bytes.push(0xb8 | to.0 & 7);
            self.dword(short);
        } else if i32::try_from(value as i64).is_ok() {
            self.with_register(true, &[0xc7], 0, to.0);
            self.dword(value as u32);
        } else {
            self.raw(&[0x48 | to.0 >> 3, 0xb8 | to.0 & 7]);
            self.bytes.extend_from_slice(&value.to_le_bytes());
        }
    }
    /// `lea to, [mem]` (64 bits, or 32 bits zero-extended)
    pub fn lea(&mut self, wide: bool, to: Reg, mem: Mem) {
        self.with_memory(&[], wide, &[0x8d], to.0, mem);
    }
    /// `xor to, [mem]` (64 bits; sets flags)
    pub fn xor_memory(&mut self, to: Reg, mem: Mem) {
        self.with_memory(&[], true, &[0x33], to.0, mem);
    }

    /// `and reg, -4096`: the beginning of a page (sets flags)
    pub fn page_of(&mut self, reg: Reg) {
        self.with_register(true, &[0x81], 4, reg.0);
        self.dword(-4096i32 as u32);
    }

    /// `not reg` (64 bits; leaves flags alone)
    pub fn not(&mut self, reg: Reg) {
        self.with_register(true, &[0xf7], 2, reg.0);
    }

    /// `add to, [mem]` (64 bits; sets flags)
    pub fn add_memory(&mut self, to: Reg, mem: Mem) {
        self.with_memory(&[], true, &[0x03], to.0, mem);
    }
    /// `and to, [mem]` (64 bits; sets flags)
    pub fn and_memory(&mut self, to: Reg, mem: Mem) {
        self.with_memory(&[], true, &[0x23], to.0, mem);
    }
    /// `mov byte [mem], value`
    pub fn store8_immediate(&mut self, mem: Mem, value: u8) {
        self.with_memory(&[], false, &[0xc6], 0, mem);
        self.bytes.push(value);
    }
    /// `sub to, [mem]` (64 bits; sets flags)
    pub fn sub_memory(&mut self, to: Reg, mem: Mem) {
        self.with_memory(&[], true, &[0x2b], to.0, mem);
    }
    /// `cmp reg, value` (64 bits; sets flags)
    pub fn cmp(&mut self, reg: Reg, value: u32) {
        self.with_register(true, &[0x81], 7, reg.0);
        self.dword(value);
    }
    /// `test dword [mem], value` (sets flags)
    pub fn test_memory32(&mut self, mem: Mem, value: u32) {
        self.with_memory(&[], false, &[0xf7], 0, mem);
        self.dword(value);
    }
    /// `shl reg, count` (64 bits; sets flags)
    pub fn shl(&mut self, reg: Reg, count: u8) {
        self.with_register(true, &[0xc1], 4, reg.0);
        self.bytes.push(count);
    }
    /// `shr reg, count` (64 bits; sets flags)
    pub fn shr(&mut self, reg: Reg, count: u8) {
        self.with_register(true, &[0xc1], 5, reg.0);
        self.bytes.push(count);
    }
    /// `sar reg, count` (64 bits; sets flags)
    pub fn sar(&mut self, reg: Reg, count: u8) {
        self.with_register(true, &[0xc1], 7, reg.0);
        self.bytes.push(count);
    }
    /// `cmp first, second` (64 bits; sets flags)
    pub fn cmp_registers(&mut self, first: Reg, second: Reg) {
        self.with_register(true, &[0x39], second.0, first.0);
    }
    /// `cmp reg, [mem]` (64 bits; sets flags)
    pub fn cmp_memory(&mut self, reg: Reg, mem: Mem) {
        self.with_memory(&[], true, &[0x3b], reg.0, mem);
    }
    /// `test reg32, value` (sets flags)
    pub fn test32(&mut self, reg: Reg, value: u32) {
        self.with_register(false, &[0xf7], 0, reg.0);
        self.dword(value);
    }
    /// `and reg32, value` (sets flags)
    pub fn and32(&mut self, reg: Reg, value: u32) {
        self.with_register(false, &[0x81], 4, reg.0);
        self.dword(value);
    }
    /// `or to32, from32` (sets flags)
    pub fn or32(&mut self, to: Reg, from: Reg) {
        self.with_register(false, &[0x09], from.0, to.0);
    }
    /// `mov to32, from32`: clears the upper half.
    pub fn mov32(&mut self, to: Reg, from: Reg) {
        self.with_register(false, &[0x89], from.0, to.0);
    }
    /// `mov to16, from16`: keeps the rest of the register.
    pub fn mov16(&mut self, to: Reg, from: Reg) {
        self.raw(&[0x66]);
        self.with_register(false, &[0x89], from.0, to.0);
    }
    /// `or dword [mem], value` (sets flags)
    pub fn or_memory32(&mut self, mem: Mem, value: u32) {
        self.with_memory(&[], false, &[0x81], 1, mem);
        self.dword(value);
    }
    /// `and dword [mem], value` (sets flags)
    pub fn and_memory32(&mut self, mem: Mem, value: u32) {
        self.with_memory(&[], false, &[0x81], 4, mem);
        self.dword(value);
    }
    /// `movzx to32, word [mem]`
    pub fn load_selector(&mut self, to: Reg, mem: Mem) {
        self.with_memory(&[], false, &[0x0f, 0xb7], to.0, mem);
    }
    /// `movzx to32, byte [mem]`
    pub fn load8(&mut self, to: Reg, mem: Mem) {
        self.with_memory(&[], false, &[0x0f, 0xb6], to.0, mem);
    }
    /// `test reg, reg` (64 bits; sets flags)
    pub fn test(&mut self, reg: Reg) {
        self.with_register(true, &[0x85], reg.0, reg.0);
    }
    /// `test reg8, value` (sets flags)
    pub fn test8(&mut self, reg: Reg, value: u8) {
        self.bytes.push(0x40 | reg.0 >> 3);
        self.raw(&[0xf6, 0xc0 | reg.0 & 7, value]);
    }
    /// `cmp dword [mem], value` with a byte value (sets flags)
    pub fn cmp32_memory(&mut self, mem: Mem, value: i8) {
        self.with_memory(&[], false, &[0x83], 7, mem);
        self.bytes.push(value as u8);
    }
    /// `mov to, gs:[frame + index * 8]`: four bytes shorter than without a base, which is why gs holds a distance from the
    /// frame.
    pub fn load_table(&mut self, to: Reg, index: Reg) {
        let entry = Mem { base: Some(host::FRAME), index: Some((index, 8)), disp: 0 };
        self.with_memory(&[0x65], true, &[0x8b], to.0, entry);
    }
    /// `movzx to32, from16`
    pub fn movzx16(&mut self, to: Reg, from: Reg) {
        self.with_register(false, &[0x0f, 0xb7], to.0, from.0);
    }
    /// `pext to, from, [mem]`: gathers the bits of `from` that the mask in memory names; leaves flags alone.
    pub fn pext(&mut self, to: Reg, from: Reg, mem: Mem) {
        let base = mem.base.map_or(0, |r| r.0);
        let index = mem.index.map_or(0, |(r, _)| r.0);
        let inverted = (!(to.0 >> 3) & 1) << 7 | (!(index >> 3) & 1) << 6 | (!(base >> 3) & 1) << 5;
        self.raw(&[0xc4, inverted | 2, 0x80 | (!from.0 & 15) << 3 | 2, 0xf5]);
        self.modrm(to.0, mem);
    }
    /// `lahf; seto al`: the arithmetic flags into ax.
    pub fn flags_to_ax(&mut self) {
        self.raw(&[0x9f, 0x0f, 0x90, 0xc0]);
    }
    /// `add al, 0x7f; sahf`: the arithmetic flags out of ax.
    pub fn flags_from_ax(&mut self) {
        self.raw(&[0x04, 0x7f, 0x9e]);
    }
    /// `jmp [mem]`
    pub fn jump_memory(&mut self, mem: Mem) {
        self.with_memory(&[], false, &[0xff], 4, mem);
    }
    /// `pop qword [mem]`; an rsp base counts after the pop.
    pub fn pop_memory(&mut self, mem: Mem) {
        self.with_memory(&[], false, &[0x8f], 0, mem);
    }
    /// `jcc` to somewhere not known yet.
    pub fn jump_if(&mut self, condition: u8) -> Patch {
        self.raw(&[0x0f, 0x80 | condition]);
        self.dword(0);
        Patch(self.here())
    }
    /// `jmp` to somewhere not known yet.
    pub fn jump(&mut self) -> Patch {
        self.bytes.push(0xe9);
        self.dword(0);
        Patch(self.here())
    }
    /// `call` to somewhere not known yet.
    pub fn call(&mut self) -> Patch {
        self.bytes.push(0xe8);
        self.dword(0);
        Patch(self.here())
    }
    /// `jrcxz` over at most 127 bytes to somewhere not known yet.
    pub fn jrcxz(&mut self) -> Patch {
        self.raw(&[0xe3, 0]);
        Patch(self.here())
    }
    /// Points a 32-bit jump at `target`, an offset in this code.
    pub fn bind(&mut self, patch: Patch, target: usize) {
        self.bind_far(patch, self.place(target));
    }
    /// Points a 32-bit jump at a place this far from this code's first byte.
    pub fn bind_far(&mut self, patch: Patch, target: i64) {
        // The jump is where its bytes are, though it ends where the other part may begin.
        let behind = self.place(patch.0 - 1) + 1;
        let distance = i32::try_from(target - behind).expect("generated code spans less than 2 GiB");
        self.bytes[patch.0 - 4..patch.0].copy_from_slice(&distance.to_le_bytes());
    }
    /// How far from the first byte the byte at `offset` will stand.
    fn place(&self, offset: usize) -> i64 {
        let gap = self.apart.filter(|apart| offset >= apart.from).map_or(0, |apart| apart.gap);
        offset as i64 + gap
    }
    /// Points a short jump at the current end of the code.
    pub fn bind_short(&mut self, patch: Patch) {
        let distance = i8::try_from(self.here() - patch.0).expect("short jumps stay inside one sequence");
        self.bytes[patch.0 - 1] = distance as u8;
    }
    /// Stores or loads the low `width` bytes (16 or 32) of the first sixteen vector registers at `base + 64 * n`: `movups`
    /// or `vmovups`.
    pub fn vectors(&mut self, base: Mem, width: u8, store: bool) {
        let opcode = if store { 0x11 } else { 0x10 };
        for n in 0..16u8 {
            let mem = Mem { disp: base.disp + 64 * i32::from(n), ..base };
            if width == 16 {
                self.with_memory(&[], false, &[0x0f, opcode], n, mem);
                continue;
            }
            let rm = mem.base.map_or(0, |r| r.0);
            let inverted = (!(n >> 3) & 1) << 7 | 0x40 | (!(rm >> 3) & 1) << 5;
            self.raw(&[0xc4, inverted | 1, 0x7c, opcode]);
            self.modrm(n, mem);
        }
    }
    /// Opcode and operands of a vector instruction behind its prefix: register `n` and the frame's byte `offset`, which
    /// lies too far for a short displacement, that EVEX would scale.
    pub fn vector_operand(&mut self, opcode: u8, n: u8, offset: usize) {
        assert!(offset > 127, "EVEX scales short displacements");
        self.bytes.push(opcode);
        self.modrm(n, Mem::frame(offset));
    }
    /// `vzeroupper`
    pub fn vzeroupper(&mut self) {
        self.raw(&[0xc5, 0xf8, 0x77]);
    }
    /// `ldmxcsr [mem]`
    pub fn ldmxcsr(&mut self, mem: Mem) {
        self.with_memory(&[], false, &[0x0f, 0xae], 2, mem);
    }
    /// `stmxcsr [mem]`
    pub fn stmxcsr(&mut self, mem: Mem) {
        self.with_memory(&[], false, &[0x0f, 0xae], 3, mem);
    }
    /// `wrgsbase reg`
    pub fn wrgsbase(&mut self, reg: Reg) {
        self.raw(&[0xf3, 0x48 | reg.0 >> 3, 0x0f, 0xae, 0xd8 | reg.0 & 7]);
    }
}

#[cfg(test)]
mod tests {
    use super::host::{FRAME, RAX, S0, S1};
    use super::*;
    use iced_x86::{Decoder, DecoderOptions, FastFormatter};

    fn shown(write: impl FnOnce(&mut Code)) -> String {
        let mut code = Code::default();
        write(&mut code);
        let mut decoder = Decoder::new(64, &code.bytes, DecoderOptions::NONE);
        let mut formatter = FastFormatter::new();
        let mut text = String::new();
        while decoder.can_decode() {
            formatter.format(&decoder.decode(), &mut text);
            text.push(';');
        }
        text
    }

    #[test]
    fn every_form_reads_back_as_what_it_claims_to_be() {
        assert_eq!(shown(|c| c.mov(S0, RAX)), "mov r10,rax;");
        assert_eq!(shown(|c| c.load(S0, Mem::at(FRAME, 8))), "mov r10,[rsp+8h];");
        assert_eq!(shown(|c| c.load(RAX, Mem::at(Reg(13), 0))), "mov rax,[r13];");
        assert_eq!(shown(|c| c.store(Mem::sum(S0, S1, 0), Reg(3))), "mov [r10+r11],rbx;");
        assert_eq!(shown(|c| c.load_table(S1, S1)), "mov r11,gs:[rsp+r11*8];");
        assert_eq!(shown(|c| c.pext(S1, Reg(9), Mem::at(FRAME, 0))), "pext r11,r9,[rsp];");
        assert_eq!(shown(|c| c.movzx16(S1, S0)), "movzx r11d,r10w;");
        assert_eq!(shown(|c| c.test8(Reg(9), 7)), "test r9b,7h;");
        assert_eq!(shown(|c| c.constant(S0, u64::MAX)), "mov r10,0FFFFFFFFFFFFFFFFh;");
        assert_eq!(shown(|c| c.wrgsbase(S0)), "wrgsbase r10;");
        assert_eq!(shown(|c| c.and_memory(S0, Mem::at(FRAME, 8))), "and r10,[rsp+8h];");
        assert_eq!(shown(|c| c.store8_immediate(Mem::at(FRAME, 8), 3)), "mov byte ptr [rsp+8h],3h;");
        assert_eq!(shown(|c| c.cmp(S0, 4096)), "cmp r10,1000h;");
        assert_eq!(shown(|c| c.sar(S0, 16)), "sar r10,10h;");
        assert_eq!(shown(|c| c.cmp_registers(S0, S1)), "cmp r10,r11;");
        assert_eq!(shown(|c| c.cmp_memory(S0, Mem::at(FRAME, 8))), "cmp r10,[rsp+8h];");
        assert_eq!(shown(|c| c.test32(S0, 8)), "test r10d,8h;");
        assert_eq!(shown(|c| c.sub_memory(RAX, Mem::at(FRAME, 8))), "sub rax,[rsp+8h];");
        assert_eq!(shown(|c| c.test_memory32(Mem::at(FRAME, 8), 1)), "test dword ptr [rsp+8h],1h;");
        assert_eq!(shown(|c| c.or32(S0, S1)), "or r10d,r11d;");
        assert_eq!(shown(|c| c.mov32(RAX, RAX)), "mov eax,eax;");
        assert_eq!(shown(|c| c.and_memory32(Mem::at(FRAME, 8), 1)), "and dword ptr [rsp+8h],1h;");
        assert_eq!(shown(|c| c.load_selector(S0, Mem::at(FRAME, 8))), "movzx r10d,word ptr [rsp+8h];");
        let jump =
            |c: &mut Code| c.jump_memory(Mem { base: Some(FRAME), index: Some((S1, 8)), disp: 0x1000 });
        assert_eq!(shown(jump), "jmp qword ptr [rsp+r11*8+1000h];");
        assert!(shown(|c| c.vectors(Mem::frame(64), 32, true)).contains("vmovups [rsp+3C0h],ymm14"));
        assert_eq!(shown(|c| c.pop_memory(Mem::frame(16))), "pop qword ptr [rsp+10h];");
    }
}
