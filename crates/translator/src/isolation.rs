//! Why a Guest reaches its own memory and nothing else. This room holds no code: it is the argument, and what would break it.
//!
//! The Guest is hostile. Its kernel and its programs choose every byte that is translated, every register, every page
//! table, and when interrupts come. The process that runs it holds the user's rights.
//!
//! # What generated code can address
//!
//! A unit contains four kinds of memory operands, and no fifth:
//!
//! 1. `[rsp + constant]`: the frame, and the memos behind it. Guest registers never are in the host's `rsp`; an instruction that names `rsp` is
//!    encoded anew with another register. The only `rsp + index` are a jump table, whose index is sixteen bits
//!    of a target and a number that Rust wrote, and the bytes of gates, whose index is two numbers of Rust's.
//! 2. `gs:[frame + page * 8]`: the addend table, from which gs takes the frame's address away. `page` is bits 12 to 47 of an address, so it lies in the view of 2^36 entries
//!    whatever the address was. No instruction of the Guest's keeps a segment prefix.
//! 3. `[address + addend]`: the Guest's bytes. The addend was read for the page of `address`, was not 0, and the
//!    access does not cross the page's end: checked, or known because stack pointers are multiples of eight.
//!    Entries are made in one place (`mend.rs`), from a page walk whose result `Ram::offset` found in a region of RAM.
//!    The addend may come out of the frame: a span's first access left it there and saw that all of the span lies in
//!    its page (`spans.rs`); or a memo's, whose page is compared with all 64 bits of the address (`memos.rs`). 32-bit addresses wrap
//!    where the host's sums do not: they are computed in 32 bits first, except in spans, whose page and displacements are such
//!    that nothing can have wrapped. Both hold
//!    what an entry said, and neither is used again once an entry was taken away: a unit is not entered again in its
//!    middle then (`Resume`), and memos are wiped before the next one runs.
//! 4. Constants of ours (masks, thunks), which the Guest does not choose.
//!
//! Instructions that touch memory in another way (two operands, areas of a variable size, implied addresses) are not
//! copied; Rust carries them out by walks and copies, or on a buffer. `isolation/tests.rs` decodes every opcode with every
//! kind of operand and compares `classify` with what the decoder's own table says it touches.
//!
//! **Upper bits.** The index leaves out bits 48 to 63, the sum does not. `addend + address` is `host page + offset + k * 2^48`,
//! and k is 0 only for the canonical address. Host pages of a process lie below 2^47, so any other k gives an address that is
//! not canonical, and the host's processor refuses it. On a host with five-level paging such an address may be
//! canonical; it is then above 2^47, where Linux maps nothing unless asked by hint, and nobody here asks.
//!
//! **Stale addends.** One vCPU may use an addend while another changes the page tables. It still names a page of this
//! Guest's memory: the memory file is mapped before the first instruction and unmapped after the last. The Guest
//! may see its own old page, as on a processor whose TLB was not shot down.
//!
//! # Where generated code can go
//!
//! Units end in jumps to units, to thunks, or through a jump table, all written by Rust. A Guest's target is never a host
//! address: it is compared with the address that the unit stands for (`check_target`), or looked up. There is no `ret`
//! in a unit. Code is written through one view of the arena and run through another, so no address is ever writable
//! and executable; neither view is in any addend table, so a Guest cannot write what it runs.
//!
//! # What each register holds between units
//!
//! | host | holds |
//! |---|---|
//! | `rsp` | the frame, always |
//! | gs base | a view of the addend tables, written by Rust or by thunks from the frame |
//! | fs base | the host thread's, untouched: `wrfsbase`, `wrmsr` and selector loads change the frame's copy |
//! | r9 | the Guest's `rsp`; r10, r11: scratch; the Guest's r9 to r11 are in the frame |
//! | the other general registers | the Guest's, as values (inside a unit some have changed places: `swaps.rs`); none is used as an address without a lookup |
//! | arithmetic flags | the Guest's, or free |
//! | DF, AC, TF, NT, IOPL, IF | the host's, always: `std`, `popf`, `stac`, `iret` change the frame's copy |
//! | vectors, x87, MXCSR | the Guest's; the way out puts MXCSR back, and leaving the vCPU's thread the rest |
//! | PKRU, XCR0, selectors, debug registers | the host's: the instructions are Rust's, and state areas are masked |
//!
//! A signal handler starts with fresh vector state and DF clear (Linux, x86 signal delivery), on a stack of its own or,
//! where its owner did not ask for one, on the frame's small stack.
//!
//! # What Rust does with what the Guest says
//!
//! Guest-physical addresses are checked in `Ram::offset`; bytes are copied, never borrowed. What a Guest can grow
//! (units, tables, books about them) has a named limit. An assertion that fails ends the process, not its isolation.
//!
//! # What is not claimed
//!
//! - **Speculation.** A conditional jump that was trained (Spectre v1) can run a unit's access before its checks are
//!   done: with an addend of 0, with a memo's for another page, or across a page's end. It then reads, in speculation, host memory of this process at an
//!   address the Guest chose. An indirect jump's prediction can be trained within the process (v2), and buffers shared
//!   with a sibling thread can leak (MDS and its kin). Nothing here fences that: a fence an access costs more than the
//!   translator gains, and masking an address cannot stop the addend's load. What there is: this process holds no
//!   secret but this Guest's own, and no other Guest's memory (a link's broker copies, it does not map peers here).
//!   Between processes the host kernel's own barriers work, for each machine is a process. So: nothing of the
//!   user's may be in this process that the Guest must not learn. The environment variables it was started with are.
//! - **Within the Guest**, its user can by the same means read what its kernel can, as on an unmitigated processor.
//! - **Row hammer, power and timing of the host** are the host's.
//! - **The host's processor** is trusted to do what its manual says, `iced` to know lengths and operands. The
//!   differential test looks for where they disagree.
//!
//! # If the argument is wrong
//!
//! Then a Guest holds a thread of this process, and the Launcher's sandbox is what is left: no file by name, no new
//! socket, program or executable memory ([`crate::ForbiddenCall`] tells who tried).
//!
//! `tests/isolation` attacks all of this: wild addresses in every form of operand, stacks that are not aligned at the end
//! of memory, tables that point outside, and state left behind at every exit.

#[cfg(test)]
mod tests;
