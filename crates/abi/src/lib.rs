//! What Guest and Host agree on: layouts and numbers, no behaviour.
//!
//! This is lguest's first generation (Linux 2.6.23, 2007) whole: the descriptor page, `lguest_dma`, the pages of
//! block and net devices, the hypercalls, and the requests of the control interface; and of the second its page of
//! virtio devices ([`device_page`], "The second generation on 64 bits" below). Every layout is written
//! twice: [`dma`] and [`data`] have a **32-bit form**, which is the original byte for byte, and a **64-bit form**,
//! which our Guests use because they run in long mode. Everything else has one form.
//!
//! ```text
//!   guest-physical
//!   0x0010_0000 ..                RAM; `end` is where the usable range that holds 1 MiB ends (see below)
//!   end          .. end + 0x1000  the descriptor page: 16 descriptors of 12 bytes      [descriptor]
//!   end + 0x1000 ..               device pages, in the order of creation: block, net, pipe
//!   end + 0x1000 * (1 + n)        the page limit: no key, no DMA list reaches above; sections end below the descriptors
//! ```
//!
//! # On 64 bits
//!
//! The text that both sides follow where the 32-bit facts leave room or cannot hold. "Facts n" is the section of
//! the interface facts the rule comes from.
//!
//! 1. **Am I an lguest Guest?** (facts 3, "guest test by name") The Launcher writes [`meeting::SUBARCH_LGUEST`] to
//!    `hardware_subarch` of the boot parameters, as the original did (facts 10), and the generation of the
//!    descriptor page to `hardware_subarch_data`. Any other value: no descriptor page; the Guest's bus
//!    starts, finds nothing, and says nothing. `hardware_subarch` stays 0 on a machine with another bus.
//! 2. **Where is the descriptor page?** (facts 2.2) At the end of low RAM, rounded up to a page: the end of the
//!    usable entry of the memory map that contains [`meeting::KERNEL_MINIMUM`]. RAM above 4 GiB does not move it.
//!    The memory map does not announce it or the device pages. All are ordinary memory to the Guest, zero filled.
//!    Private pages belong to the machine's memory; a shared net page is a shared mapping of the link's file.
//! 3. **Descriptors** are the same 12 bytes. `pfn` stays 32 bits, which reaches 16 TiB. Holes are legal.
//!    Creation order as the original: command-line order, then the console, always present and always last.
//! 4. **Hypercalls** (facts 9) are `vmcall` or `vmmcall` instead of `int 31`; either works on either engine. Number in
//!    rax, arguments in rdx, rbx, rcx, in this order, all 64 bits wide; the answer is in rax. Every other register
//!    and the flags stay. SEND_DMA leaves rax alone. Only code at privilege level 0 may call: from
//!    elsewhere it is an invalid-opcode exception. [`hypercall::Hypercall::on_64_bits`] says which exist: segments,
//!    page tables, timer and halt are the processor's own business here, for a Guest has a whole processor.
//!    The others and unknown numbers kill the Guest with `Bad hypercall <n>`.
//!    **On KVM** `vmcall` ends inside the host's kernel, so a Host on that engine sets
//!    [`meeting::HYPERCALL_BY_PORT`] in `hardware_subarch_data`, and the Guest executes `out dx, eax` to
//!    [`meeting::HYPERCALL_PORT`] instead: number in rax (the low 32 bits reach the port), arguments in rsi, rbx, rcx, for
//!    rdx holds the port; the answer is in rax. The Host may set it on the translator too.
//! 5. **LGUEST_INIT** comes first and once (facts 9): the Host fills a [`data::Data64`] at the address given. The
//!    console is the exception, as in the original: SEND_DMA with key 0 works before LGUEST_INIT, so that a Guest can
//!    say why it cannot go on. So does CRASH. There is no asynchronous ring: it batched page-table
//!    updates, which are not hypercalls here; FLUSH_ASYNC does nothing.
//! 6. **`lguest_dma`** is [`dma::Dma64`]: the original's C declaration with an `unsigned long` of eight bytes, 168
//!    bytes. Arrays of it have stride 168. The struct itself lies inside the page limit; it may cross a page.
//! 7. **BIND_DMA** takes `(count << 8) | irq` in rcx, count 1..=65535 (the u16 of the original), irq 1..=31. Irq 0
//!    unbinds. Answers 1 or 0. A count of 0 binds an array that is always full. Bits 24 and up are ignored.
//! 8. **Keys** (facts 5) are 64-bit guest-physical addresses, multiples of 4. Key 0 is the console's, wherever RAM begins.
//!    A key in a private page reaches this machine's own devices; a key in a shared page reaches only other machines.
//!    Two keys are equal iff they are the same byte of the same memory (file and offset), whatever their addresses.
//! 9. **Interrupts** (facts 8.5): device `index` interrupts on irq `index + 1`; irq `n` arrives at IDT vector
//!    `0x20 + n` ([`meeting::vector`]) as an edge-triggered fixed message to the local APIC of vCPU 0 (what an MSI with
//!    address 0xFEE0_0000 and data = vector does). No I/O APIC pin, nothing to unmask: the Guest enables its local APIC and
//!    writes EOI. Pending means IRR, so two raises before the first is taken are one interrupt, as in the original.
//!    Irq 0 is never raised by the Host; vector 0x20 is free for the Guest's own APIC timer.
//! 10. **used_len** is a 32-bit word at offset 0 in both forms, and its life is that of facts 4.1.
//! 11. **Range test** (D4): a range may end exactly at the page limit; an end that wraps is refused.
//! 12. **Mistakes of the original that stay fixed**: D1 (unequal splits), D2 (second unbind answers 0), D3 (all busy is
//!     ENOENT), D4, D8, D17. See facts 13.
//! 13. **CRASH** reads 128 bytes at rdx, NUL forced. The text `Power down` ([`hypercall::POWER_DOWN`]) is a clean power-off;
//!     any other ends the machine as dead with the reason `CRASH: <text>`.
//! 14. **GET_WALLCLOCK** answers seconds since 1970 in rax.
//! 15. **Pipe** ([`pipe`]) is ours: the example of the 2007 abstraction mail as a fourth device type, and the same pipe
//!     over a device tree and two hypercalls.
//!
//! # The second generation on 64 bits
//!
//! The bytes of [`device_page`] are the original's, whatever the width of its Guest; "G" is the facts of generation 2.
//!
//! 1. **Which generation?** `hardware_subarch` as above, and [`meeting::GENERATION_2`] in `hardware_subarch_data`.
//! 2. **Where?** The page lies where rule 2 above has it, and the rings behind it, in the order of the devices; all of it is
//!    ordinary memory, zero filled, at most [`device_page::MOST_PAGES`]. Devices come in the order of the command line,
//!    the console last (G 11.3).
//! 3. **NOTIFY** is hypercall 17 by the convention of rule 4 above, with its value in rbx, and has no answer. The value is the
//!    address of a descriptor (its status was written, or its features accepted), the address of a ring (it has something), or
//!    one below the page: a text of at most [`device_page::MOST_TEXT`] bytes, its NUL included, for whoever has no console
//!    yet. Anything else kills the Guest (G 11.1).
//! 4. **Other hypercalls**: FLUSH_ASYNC, LGUEST_INIT, CRASH and GET_WALLCLOCK as above. BIND_DMA and SEND_DMA went with
//!    the first generation: they kill as unknown numbers do.
//! 5. **Status** (G 11.4 and 14): 0 written and told resets. A device starts with the first word of a ring of its own once DRIVER is
//!    set, or when DRIVER_OK is told; by then the accepted features stand in the page. Of the flows of 2009, which tells
//!    every status, and 2011, which tells the features, a Guest may take either.
//! 6. **Interrupts**: the irq of a ring arrives as rule 9 above says. Nothing tells of a changed configuration.
//! 7. **Legacy virtio**: bitmaps carry 32 features, so no driver can accept VERSION_1. A net header has 10 bytes, a disk's
//!    request begins with a descriptor of exactly 16 and ends with one of exactly 1.
#![no_std]
#![forbid(unsafe_code)]

pub mod meeting;
pub mod descriptor;
pub mod device_page;
pub mod dma;
pub mod hypercall;
pub mod data;
pub mod block;
pub mod net;
pub mod console;
pub mod pipe;
pub mod control;
pub mod lguest32;
