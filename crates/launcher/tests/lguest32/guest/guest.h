/* What the parts of the Guest share. Addresses: "physical" is what the Host and its tables speak of; everything else is where
 * the Guest has it, HIGH above that. */

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define HIGH 0xc0000000u
#define PAGE 4096u
#define PHYSICAL(pointer) ((u32)(pointer) - HIGH)
#define VIRTUAL(address) ((void *)((address) + HIGH))

enum {
	FLUSH_ASYNC = 0, SHUTDOWN = 2, NEW_PGTABLE = 4, FLUSH_TLB = 5, LOAD_IDT_ENTRY = 6, SET_STACK = 7, TS = 8,
	SET_CLOCKEVENT = 9, HALT = 10, SET_PMD = 13, SET_PTE = 14, SET_PGD = 15, LOAD_TLS = 16, NOTIFY = 17,
	LOAD_GDT_ENTRY = 18,
};

/* What both sides write to, as each kernel has it. */
struct lguest_data {
	volatile u32 irq_enabled, blocked_interrupts, cr2, seconds, nanoseconds, irq_pending;
	volatile u8 status[64];
	u32 calls[64][5];
	u32 reserve_mem, tsc_khz;
#if FORM == 26
	u32 pgdir;
#endif
#if FORM == 41
	void *noirq_iret;
#else
	void *noirq_start, *noirq_end;
#endif
	u32 kernel_address, syscall_vec;
};
extern struct lguest_data lguest_data;

static inline void hypercall(u32 number, u32 a, u32 b, u32 c, u32 d)
{
#if FORM == 26
	asm volatile(".byte 0x0f, 0x01, 0xc1" : : "a"(number), "b"(a), "c"(b), "d"(c), "S"(d) : "memory");
#else
	asm volatile("int $0x1f" : : "a"(number), "b"(a), "c"(b), "d"(c), "S"(d) : "memory");
#endif
}

/* kernel.c */
_Noreturn void die(const char *text);
void check(int right, const char *text);
void irq_off(void);
void irq_enable(void);
/* Sleeps until `done` is not zero; an interrupt ends every sleep. */
void wait_until(volatile u32 *done);
/* What is called when this interrupt comes. */
void on_interrupt(u32 irq, void (*handler)(void));

/* paging.c */
void paging_begin(u32 memory);
void *new_page(void);
/* Makes pages outside memory reachable: cached, or as registers want it. */
void *map(u32 physical, u32 pages, int registers);
void new_processes(void);
/* A page of the user's at `address` of process `number`, which gets a space if it has none: where the kernel has it. */
void *user_page(u32 number, u32 address);
/* That of process 0 or 1 from here on; in the ring, if calls go there. */
void load_space(u32 number);
/* A fault at `address`: true if it was the process's to have, or the write-protection test's. */
int page_fault(u32 address, u32 error, u32 *eip);
/* Calls about the tables go into the ring from here on, until `leave_lazy`. */
void enter_lazy(void);
void leave_lazy(void);
void lazy(u32 number, u32 a, u32 b, u32 c, u32 d);

/* console.c */
void print(const char *text);
void print_bytes(const char *bytes, u32 length);
void print_number(u32 number);
/* Waits for words and says them again. */
void listen(void);

/* virtio.c */
struct ring {
	struct { u64 address; u32 length; u16 flags, next; } *descriptors;
	volatile u16 *available;
	volatile u16 *used;
	u16 size, next, seen;
	/* What the Host is told, and how. */
	u32 word;
	volatile u16 *notify;
};
struct piece {
	void *start;
	u32 length;
	int device_writes;
};
void ring_at(struct ring *ring, u16 size, void *descriptors, void *available, void *used);
/* Offers a chain and tells the Host. */
void offer(struct ring *ring, u32 count, const struct piece *pieces);
/* True when a chain came back; how much of it was written. */
int taken_back(struct ring *ring, u32 *length);

/* A device, whichever way it was found. */
struct device {
	u32 kind;
	u32 offered;
	u32 accepted;
	volatile u8 *configuration;
	struct ring rings[2];
	u32 irqs[2];
	volatile u8 *interrupt_status;
	/* Accepts `features` of what is offered and makes it ready. */
	void (*start)(struct device *, u32 features);
	void *place;
};
#define MOST_DEVICES 8
extern struct device devices[MOST_DEVICES];
extern u32 device_count;
/* page.c or pci.c */
void find_devices(void);
void early_print(const char *bytes, u32 length);

/* program.c */
#define PROGRAM_STACK 0xbffff000u
/* Puts an ELF file into the space of process 0, with a stack below PROGRAM_STACK; its first instruction. */
u32 load_program(const u8 *bytes);

/* drivers.c */
void use_devices(void);

extern u8 boot_params[PAGE];
extern char command_line[2048];
extern char user_start[], user_end[];
extern u32 memory_end;
