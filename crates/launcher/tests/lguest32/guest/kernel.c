/* The Guest: what a Linux with lguest's sub-architecture does from its first line of C to its end, in its order. */

#include "guest.h"

#if FORM == 26
#define VERSION "2.6.32.9"
#elif FORM == 31
#define VERSION "3.1.10"
#else
#define VERSION "4.1.15"
#endif

extern char noirq_start[], noirq_end[], noirq_iret[], entries[];
extern void leave_trap(void);

u8 boot_params[PAGE] __attribute__((aligned(4096)));
char command_line[2048];
u8 stack[2 * PAGE] __attribute__((aligned(8192)));
asm(".global stack_end\n.set stack_end, stack + 8192");
u32 memory_end;

struct lguest_data lguest_data = {
	.status = { [0 ... 63] = 0xff },
	.blocked_interrupts = 1,
#if FORM == 41
	.noirq_iret = noirq_iret,
#else
	.noirq_start = noirq_start,
	.noirq_end = noirq_end,
#endif
	.kernel_address = HIGH,
	.syscall_vec = 0x80,
};

void irq_off(void)
{
	lguest_data.irq_enabled = 0;
}

void die(const char *text)
{
	hypercall(SHUTDOWN, PHYSICAL(text), 1, 0, 0);
	__builtin_unreachable();
}

void check(int right, const char *text)
{
	if (!right)
		die(text);
}

/* Descriptors: those of code and data as level 0 would have them, storage of the processor's own at fs, and the stack's guard at
 * gs, 25 bytes of it. */
static u32 processor[64] = { 0x1dea };
static u8 guard[32] = { [20] = 0xca, 0xfe };

static u64 descriptor(u32 base, u32 limit, u32 rights)
{
	u32 high = (base & 0xff000000) | (rights << 8 & 0x00f0ff00) | (limit & 0xf0000) | (base >> 16 & 0xff);

	return (u64)high << 32 | base << 16 | (limit & 0xffff);
}

static void load_descriptors(void)
{
	static u64 table[32];
	u32 value;

	table[12] = descriptor(0, 0xfffff, 0xc09a);
	table[13] = descriptor(0, 0xfffff, 0xc092);
	table[14] = descriptor(0, 0xfffff, 0xc0fa);
	table[15] = descriptor(0, 0xfffff, 0xc0f2);
	table[16] = descriptor((u32)processor, 0x67, 0x0089);
	table[18] = descriptor(0, 0xffff, 0x409a);
	table[26] = descriptor(0, 0xfffff, 0xc092);
	table[27] = descriptor((u32)processor, 0xfffff, 0xc092);
	table[28] = descriptor((u32)guard, 0x18, 0x4092);
	for (u32 n = 0; n < 32; n++)
		hypercall(LOAD_GDT_ENTRY, n, (u32)table[n], (u32)(table[n] >> 32), 0);
	asm volatile("movl %0, %%fs; movl %1, %%gs" : : "r"(0xd8), "r"(0xe0));
	asm volatile("movl %%fs:0, %0" : "=r"(value));
	check(value == 0x1dea, "the processor's storage is not at fs");
	asm volatile("movl %%gs:20, %0" : "=r"(value));
	check(value == 0xfeca, "the stack's guard is not at gs");
}

static void load_gates(void)
{
	for (u32 vector = 0; vector < 256; vector++) {
		u32 entry = (u32)entries + 16 * vector;
		/* Traps that a user may ask for; the rest are interrupt gates. A task gate for the double fault. */
		u32 kind = vector == 0x80 ? 0xef : vector == 3 || vector == 4 ? 0xee : vector == 8 ? 0x85 : 0x8e;
		u32 low = 0x60 << 16 | (entry & 0xffff), high = (entry & 0xffff0000) | kind << 8;
		hypercall(LOAD_IDT_ENTRY, vector, low, high, 0);
	}
}

/* Interrupts: masked while they are handled. */
static void (*handlers[32])(void);
static volatile u32 ticks;

void on_interrupt(u32 irq, void (*handler)(void))
{
	check(irq > 0 && irq < 32, "a device has no interrupt");
	handlers[irq] = handler;
	asm volatile("lock btrl %1, %0" : "+m"(lguest_data.blocked_interrupts) : "r"(irq));
}

static void tick(void)
{
	ticks++;
	hypercall(SET_CLOCKEVENT, 1000000, 0, 0, 0);
}

static void interrupt(u32 irq)
{
	asm volatile("lock btsl %1, %0" : "+m"(lguest_data.blocked_interrupts) : "r"(irq));
	check(lguest_data.irq_enabled == 0, "an interrupt came with interrupts on");
	if (handlers[irq])
		handlers[irq]();
	asm volatile("lock btrl %1, %0" : "+m"(lguest_data.blocked_interrupts) : "r"(irq));
}

void wait_until(volatile u32 *done)
{
	for (;;) {
		irq_off();
		if (*done)
			break;
		hypercall(HALT, 0, 0, 0, 0);
	}
	irq_enable();
}

struct frame {
	u32 ebx, ecx, edx, esi, edi, ebp, eax;
	u32 ds, es, fs, gs;
	u32 vector, error, eip, cs, flags;
	/* Only of who was interrupted at level 3, and of who is to be there. */
	u32 user_esp, user_ss;
};

/* The two processes: what each was at when the other had its turn, and its storage's descriptors. */
static struct process {
	struct frame frame;
	u64 storage[3];
	int gone;
} processes[2];
static u32 current;

/* What changes with the process, in one go: its tables, its stack for traps, its storage. */
static void load_process(void)
{
	enter_lazy();
	load_space(current);
	lazy(SET_STACK, 0x69, (u32)stack + sizeof(stack), 2, 0);
	lazy(LOAD_TLS, PHYSICAL(processes[current].storage), 0, 0, 0);
	leave_lazy();
}

static void change_process(struct frame *frame)
{
	processes[current].frame = *frame;
	current ^= 1;
	*frame = processes[current].frame;
	load_process();
}

/* Where a process begins. */
static u32 first_instruction = 0x08048000, first_stack = 0x0804b000;
static void first_frame(struct frame *frame)
{
	frame->ds = frame->es = frame->user_ss = 0x7b;
	frame->fs = frame->gs = 0;
	frame->eip = first_instruction, frame->cs = 0x73, frame->flags = 0x202, frame->user_esp = first_stack;
}

/* What the processes ask for. */
static void system_call(struct frame *frame)
{
	frame->gs = frame->eax == 243 ? 0 : frame->gs;
	switch (frame->eax) {
	case 1:
		check(frame->ebx == 0, "a process failed");
		print("a process has ended\n");
		processes[current].gone = 1;
		if (processes[0].gone && processes[1].gone)
			die("Power down");
		return change_process(frame);
	case 4:
		print_bytes((char *)frame->ecx, frame->edx);
		frame->eax = frame->edx;
		return;
	case 20:
		frame->eax = 1;
		return;
	case 158:
		frame->eax = 0;
		if (!processes[current ^ 1].gone)
			change_process(frame);
		return;
	case 243:
		processes[current].storage[0] = descriptor(frame->ebx, 0xfffff, 0xc0f2);
		load_process();
		frame->eax = 6 << 3 | 3;
		return;
	}
	frame->eax = -38;
}

static u32 fpu_faults;

/* What each entry calls, on the stack of who was interrupted or on the process's. */
void trap(struct frame *frame)
{
	u32 vector = frame->vector;

	if (vector >= 32 && vector != 0x80)
		return interrupt(vector - 32);
	if (vector == 0x80 && frame->cs == 0x61) {
		/* The kernel's own call, by which it becomes a process: the frame is overwritten, and what is behind it too. */
		first_frame(frame);
		return;
	}
	if (vector == 0x80) {
		check(frame->cs == 0x73 && frame->flags & 0x200, "a system call came from elsewhere");
		return system_call(frame);
	}
	if (vector == 7) {
		fpu_faults++;
		hypercall(TS, 0, 0, 0, 0);
		return;
	}
	if (vector == 14) {
		u32 address = lguest_data.cr2;
		/* As a handler that may sleep. */
		if (frame->flags & 0x200)
			irq_enable();
		check(page_fault(address, frame->error, &frame->eip), "a page fault that nobody wanted");
		irq_off();
		return;
	}
	die(vector == 13 ? "a general protection fault" : vector == 6 ? "an invalid instruction" : "a trap");
}

/* Level 1 is no place for much, and says so in its own way. */
static void check_level(void)
{
	u32 before, between, a = 1, b, c = 0, d;

	/* The interrupt flag stays, the identity flag may change. */
	asm volatile("pushfl; popl %0; movl %0, %1; xorl $0x200200, %1; pushl %1; popfl; pushfl; popl %1; pushl %0; popfl"
		: "=&r"(before), "=&r"(between));
	check(before & 0x200 && between & 0x200, "the interrupt flag was off");
	check((before ^ between) == 0x200000, "the identity flag does not change");
	asm volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
	/* Linux makes family 5 of it, in which AMD's models from 6 on have registers of their own. */
	check((a >> 4 & 0xf) < 6, "a model of K6's");
	/* What its drivers may use: FPU, TSC, PAE, CX8, CMOV, MMX, FXSR, SSE, SSE2. */
	check((d & 0x07808151) == 0x07808151, "a feature is missing");
	a = 0x40000000;
	asm volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
	check(b == 0, "a hypervisor of another kind");
	/* Probes of what a PC has. */
	u8 byte;
	asm volatile("inb $0x71, %0" : "=a"(byte));
	check(byte == 0xff, "there is a clock at 0x71");
	asm volatile("outb %0, $0x80; outb %0, $0x21; outb %0, $0xa1; cli" : : "a"((u8)0xff));
}

/* Whether the command line has this word. */
static int asked(const char *word)
{
	for (const char *at = command_line; *at; at++) {
		u32 n = 0;
		while (word[n] && at[n] == word[n])
			n++;
		if (!word[n])
			return 1;
	}
	return 0;
}

_Noreturn void kernel(void);
void kernel(void)
{
	load_descriptors();
	check(lguest_data.reserve_mem != 0 || FORM == 41, "nothing is reserved");
	check(lguest_data.seconds > 1000000000, "there is no time of day");
	check(boot_params[0x1e8] == 1 && *(u32 *)(boot_params + 0x2e0) == 1, "the memory map has not one entry");
	memory_end = *(u32 *)(boot_params + 0x2d8);
	print("Linux version " VERSION " (of our own)\ncommand line: ");
	print(command_line);
	print("\n");
	load_gates();
	check_level();
	paging_begin(memory_end);
	hypercall(SET_STACK, 0x69, (u32)stack + sizeof(stack), 2, 0);
	hypercall(TS, 8, 0, 0, 0);
	asm volatile("fninit");
	check(fpu_faults == 1, "the FPU was not taken away");

	handlers[0] = tick;
	lguest_data.blocked_interrupts &= ~1;
	hypercall(SET_CLOCKEVENT, 1000000, 0, 0, 0);
	irq_enable();
	while (ticks < 3)
		;
	print("the clock runs\n");

	u32 initrd = *(u32 *)(boot_params + 0x218);
	if (initrd && !asked("program")) {
		print("the initrd says ");
		print(VIRTUAL(initrd));
	}
	find_devices();
	use_devices();
	if (asked("listen"))
		listen();
	hypercall(TS, 8, 0, 0, 0);
	fpu_faults = 0;
	if (asked("program")) {
		first_instruction = load_program(VIRTUAL(initrd));
		first_stack = PROGRAM_STACK;
		processes[1].gone = 1;
	} else
		new_processes();
	first_frame(&processes[1].frame);
	load_process();
	irq_off();
	/* 4.1 returns to its first process as from an interrupt; the older ones call themselves. */
#if FORM == 41
	asm volatile(
		"movl $0x7b, %%eax; movl %%eax, %%ds; movl %%eax, %%es; xorl %%eax, %%eax; movl %%eax, %%fs; movl %%eax, %%gs\n"
		"pushl $0x7b; pushl %1; pushl $0x202; pushl $0x73; pushl %0; jmp leave_trap"
		: : "b"(first_instruction), "c"(first_stack) : "eax", "memory");
#else
	asm volatile("movl $stack_end - 64, %esp; int $0x80");
#endif
	__builtin_unreachable();
}

/* What Linux' own text has, by which it is taken for one. */
__attribute__((used)) static const char mark[] = "LGUEST";
