/* Page tables, with entries of four bytes or, with PAE, of eight. The Guest writes them as on a processor of its own and tells
 * its Host: of top-level entries, of entries of a named space, of everything that it does not want to name. */

#include "guest.h"

#ifdef PAE
typedef u64 entry;
#define PER_TABLE 512u
#define SPAN 21
#else
typedef u32 entry;
#define PER_TABLE 1024u
#define SPAN 22
#endif
enum { PRESENT = 1, WRITABLE = 2, USER = 4, UNCACHED = 0x18, USED = 0x20, WRITTEN = 0x40, GLOBAL = 0x100 };
#define KERNEL_PAGE (PRESENT | WRITABLE | USED | WRITTEN | GLOBAL)
#define TABLE (PRESENT | WRITABLE | USER | USED | WRITTEN)
/* Where what is outside memory is mapped. */
#define WINDOW 0xd0000000u

/* The tables that are there before any other. */
#if FORM != 26
entry first_tables[(64u << 20) / PAGE] __attribute__((aligned(4096)));
entry first_directory[PER_TABLE] __attribute__((aligned(4096)));
#ifdef PAE
entry first_pointers[4] __attribute__((aligned(4096)));
#endif
#endif
#if defined(PAE) && FORM == 26
/* 2.6.32 with PAE is known by this page, which lies in its data with pointers at its beginning and nothing behind. */
__attribute__((used, aligned(4096))) static u8 directory_page[PAGE];
asm(".data\n.balign 4096\n"
	".long directory_page - 0xc0000000 + 1, 0, 0, 0, 0, 0, directory_page - 0xc0000000 + 1, 0\n.fill 1016, 4, 0\n.text");
#endif

static entry *top;
static u32 free_page, window = WINDOW;
static int in_ring;

void enter_lazy(void)
{
	in_ring = 1;
}

void leave_lazy(void)
{
	hypercall(FLUSH_ASYNC, 0, 0, 0, 0);
	in_ring = 0;
}

void lazy(u32 number, u32 a, u32 b, u32 c, u32 d)
{
	static u32 next;

	if (!in_ring || lguest_data.status[next] != 0xff)
		return hypercall(number, a, b, c, d);
	u32 *slot = lguest_data.calls[next];
	slot[0] = number, slot[1] = a, slot[2] = b, slot[3] = c, slot[4] = d;
	asm volatile("" : : : "memory");
	lguest_data.status[next] = 0;
	next = (next + 1) % 64;
}

void *new_page(void)
{
	void *page = VIRTUAL(free_page);

	free_page += PAGE;
	for (u32 n = 0; n < PAGE / 4; n++)
		((volatile u32 *)page)[n] = 0;
	return page;
}

/* The entry for `address` in the space that begins at `root`, its table made if there is none. */
static entry *entry_for(entry *root, u32 address, int tell)
{
#ifdef PAE
	entry *pointer = root + (address >> 30);
	if (!(*pointer & PRESENT)) {
		*pointer = PHYSICAL(new_page()) | PRESENT;
		if (tell)
			lazy(SET_PGD, PHYSICAL(root) & ~31, pointer - root, 0, 0);
	}
	entry *directory = VIRTUAL((u32)*pointer & ~(PAGE - 1));
#else
	entry *directory = root;
#endif
	entry *table = directory + (address >> SPAN) % PER_TABLE;
	if (!(*table & PRESENT)) {
		*table = PHYSICAL(new_page()) | TABLE;
		if (tell)
#ifdef PAE
			lazy(SET_PMD, PHYSICAL(directory), table - directory, 0, 0);
#else
			lazy(SET_PGD, PHYSICAL(directory), table - directory, 0, 0);
#endif
	}
	entry *entries = VIRTUAL((u32)*table & ~(PAGE - 1));
	return entries + (address >> 12) % PER_TABLE;
}

static void set(entry *root, u32 address, entry value)
{
	*entry_for(root, address, 1) = value;
	lazy(SET_PTE, PHYSICAL(root), address, (u32)value, (u32)((u64)value >> 32));
}

static volatile u32 protected_fault;

/* All of memory, at its high address and nowhere else; then whether the processor heeds what may not be written. */
void paging_begin(u32 memory)
{
	extern char image_end[];
	static u8 probe[PAGE] __attribute__((aligned(4096)));
	u32 done;

	free_page = PHYSICAL(image_end) + PAGE;
	top = new_page();
	for (u32 at = 0; at < memory; at += PAGE)
		*entry_for(top, HIGH + at, 0) = at | KERNEL_PAGE;
	hypercall(NEW_PGTABLE, PHYSICAL(top), 0, 0, 0);
	hypercall(FLUSH_TLB, 1, 0, 0, 0);

	set(top, (u32)probe, PHYSICAL(probe) | PRESENT | USER | USED);
	asm volatile("movl $1, %1; movb $1, %0\n.global after_probe\nafter_probe:" : "+m"(probe[0]), "=m"(protected_fault));
	done = protected_fault;
	check(done == 2, "the kernel may write what is read-only");
	set(top, (u32)probe, PHYSICAL(probe) | KERNEL_PAGE);
}

void *map(u32 physical, u32 pages, int registers)
{
	u32 at = window;

	enter_lazy();
	for (u32 n = 0; n < pages; n++)
		set(top, at + n * PAGE, (physical + n * PAGE) | KERNEL_PAGE | (registers ? UNCACHED : 0));
	leave_lazy();
	window += (pages + 1) * PAGE;
	return (void *)at;
}

static entry *spaces[2], *space;
static u32 copies;

/* A space with nothing but the kernel's part, which all have in common. */
static entry *new_space(void)
{
	entry *root = new_page();

#ifdef PAE
	root[3] = top[3];
#else
	for (u32 slot = HIGH >> SPAN; slot < PER_TABLE; slot++)
		root[slot] = top[slot];
#endif
	return root;
}

void *user_page(u32 number, u32 address)
{
	if (!spaces[number])
		spaces[number] = new_space();
	entry *place = entry_for(spaces[number], address, 0);
	if (!(*place & PRESENT))
		*place = PHYSICAL(new_page()) | PRESENT | WRITABLE | USER | USED | WRITTEN;
	return VIRTUAL((u32)*place & ~(PAGE - 1));
}

/* Two spaces, each with pages of its process's own at the same addresses. */
void new_processes(void)
{
	for (u32 n = 0; n < 2; n++) {
		entry *root = spaces[n] = new_space();
		u32 *mark = new_page(), *storage = new_page();

		mark[0] = storage[PAGE / 4 - 1] = 0x5eed0000 + n;
		*entry_for(root, 0x08048000, 0) = PHYSICAL(user_start) | PRESENT | USER | USED;
		*entry_for(root, 0x08049000, 0) = PHYSICAL(new_page()) | PRESENT | USER | USED;
		*entry_for(root, 0x0804a000, 0) = PHYSICAL(new_page()) | PRESENT | WRITABLE | USER | USED | WRITTEN;
		*entry_for(root, 0x0804e000, 0) = PHYSICAL(mark) | PRESENT | USER | USED;
		*entry_for(root, 0x0804f000, 0) = PHYSICAL(storage) | PRESENT | WRITABLE | USER | USED | WRITTEN;
	}
}

void load_space(u32 number)
{
	space = spaces[number];
	lazy(NEW_PGTABLE, PHYSICAL(space), 0, 0, 0);
}

int page_fault(u32 address, u32 error, u32 *eip)
{
	extern char after_probe[];

	if (!space) {
		/* A write of the kernel's to a page that is there. */
		if (error != 3)
			return 0;
		protected_fault = 2;
		*eip = (u32)after_probe;
		return 1;
	}
	/* Copy on write, once for each. */
	if (error != 7 || address != 0x08049000 || copies++ == 2)
		return 0;
	void *copy = new_page();
	set(space, address, PHYSICAL(copy) | PRESENT | WRITABLE | USER | USED | WRITTEN);
	return 1;
}
