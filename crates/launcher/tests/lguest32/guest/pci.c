/* Devices on PCI, as 4.1 finds them: virtio 1.0, one interrupt line a function, whose number is the interrupt. */

#include "guest.h"

enum { VENDOR = 0x00, COMMAND = 0x04, CLASS = 0x08, HEADER = 0x0e, BAR = 0x10, CAPABILITIES = 0x34, LINE = 0x3c };
enum { COMMON_PART = 1, NOTIFY_PART = 2, STATUS_PART = 3, DEVICE_PART = 4, ACCESS_PART = 5 };

static void outl(u16 port, u32 value) { asm volatile("outl %0, %1" : : "a"(value), "d"(port)); }
static void outb(u16 port, u8 value) { asm volatile("outb %0, %1" : : "a"(value), "d"(port)); }
static u32 inl(u16 port) { u32 value; asm volatile("inl %1, %0" : "=a"(value) : "d"(port)); return value; }
static u16 inw(u16 port) { u16 value; asm volatile("inw %1, %0" : "=a"(value) : "d"(port)); return value; }
static u8 inb(u16 port) { u8 value; asm volatile("inb %1, %0" : "=a"(value) : "d"(port)); return value; }

static void select(u32 slot, u32 at) { outl(0xcf8, 0x80000000 | slot << 11 | (at & ~3)); }
static u32 read4(u32 slot, u32 at) { select(slot, at); return inl(0xcfc); }
static u16 read2(u32 slot, u32 at) { select(slot, at); return inw(0xcfc + (at & 2)); }
static u8 read1(u32 slot, u32 at) { select(slot, at); return inb(0xcfc + (at & 3)); }
static void write4(u32 slot, u32 at, u32 value) { select(slot, at); outl(0xcfc, value); }
static void write1(u32 slot, u32 at, u8 value) { select(slot, at); outb(0xcfc + (at & 3), value); }

/* The capability of a part of the registers; 0 if there is none. */
static u32 part(u32 slot, u32 kind)
{
	u32 at = read1(slot, CAPABILITIES);

	while (at && !(read1(slot, at) == 9 && read1(slot, at + 3) == kind && read1(slot, at + 4) == 0))
		at = read1(slot, at + 1);
	return at;
}

/* A byte at a time, by the console's byte for emergencies, through the space's own window. */
void early_print(const char *bytes, u32 length)
{
	static u32 access, place;

	if (!access) {
		check(read4(1, VENDOR) == 0x10431af4, "slot 1 has no console");
		access = part(1, ACCESS_PART);
		u32 device = part(1, DEVICE_PART);
		check(access && device && read4(1, device + 12) >= 12, "the console has no such byte");
		place = read4(1, device + 8) + 8;
	}
	for (u32 n = 0; n < length; n++) {
		write1(1, access + 4, 0);
		write4(1, access + 12, 4);
		write4(1, access + 8, place);
		write4(1, access + 16, bytes[n]);
	}
}

/* struct virtio_pci_common_cfg. */
struct common {
	u32 offered_half, offered, accepted_half, accepted;
	u16 vector, queues;
	u8 status, generation;
	u16 queue, size, queue_vector, enable, notify;
	u32 descriptors[2], available[2], used[2];
};

static void start(struct device *device, u32 features)
{
	u32 slot = (u32)device->place;
	u32 base = read4(slot, BAR) & ~15;
	u32 size;

	/* How large it is, as every scan of the bus asks. */
	write4(slot, BAR, ~0);
	size = ~(read4(slot, BAR) & ~15) + 1;
	write4(slot, BAR, base);
	check(base >= memory_end && size >= 64 && (base & (size - 1)) == 0, "a function's registers are nowhere");
	write4(slot, COMMAND, read2(slot, COMMAND) | 2 | 4);
	u8 *registers = map(base, (size + PAGE - 1) / PAGE, 1);
	u32 notify = part(slot, NOTIFY_PART), step = read4(slot, notify + 16);
	volatile struct common *common = (void *)(registers + read4(slot, part(slot, COMMON_PART) + 8));
	device->interrupt_status = registers + read4(slot, part(slot, STATUS_PART) + 8);
	if (part(slot, DEVICE_PART))
		device->configuration = registers + read4(slot, part(slot, DEVICE_PART) + 8);

	common->status = 0;
	check(common->status == 0, "a reset has no end");
	common->status = 1;
	common->status = 1 | 2;
	common->offered_half = 0;
	device->offered = common->offered;
	common->offered_half = 1;
	check(common->offered & 1, "a device is not of version 1");
	device->accepted = features & device->offered;
	common->accepted_half = 0;
	common->accepted = device->accepted;
	common->accepted_half = 1;
	common->accepted = 1;
	common->status = 1 | 2 | 8;
	check(common->status & 8, "a device refuses its own features");
	for (u16 n = 0; n < common->queues && n < 2; n++) {
		common->queue = n;
		u16 length = common->size;
		check(length && (length & (length - 1)) == 0 && !common->enable, "a queue of no length");
		/* Four pages, one after the other: descriptors, available, used. */
		u8 *ring = new_page();
		new_page();
		u8 *available = new_page(), *used = new_page();
		check(length <= 256, "a queue longer than its pages");
		ring_at(&device->rings[n], length, ring, available, used);
		common->size = length;
		common->descriptors[0] = PHYSICAL(ring), common->descriptors[1] = 0;
		common->available[0] = PHYSICAL(available), common->available[1] = 0;
		common->used[0] = PHYSICAL(used), common->used[1] = 0;
		device->rings[n].word = n;
		device->rings[n].notify = (void *)(registers + read4(slot, notify + 8) + common->notify * step);
		common->enable = 1;
		device->irqs[n] = read1(slot, LINE);
	}
	common->status = 1 | 2 | 8 | 4;
}

void find_devices(void)
{
	u32 old;

	/* Whether there is a mechanism 1, and something behind it. */
	outb(0xcfb, 1);
	old = inl(0xcf8);
	outl(0xcf8, 0x80000000);
	check(inl(0xcf8) == 0x80000000, "there is no PCI");
	outl(0xcf8, old);
	check(read2(0, CLASS + 2) == 0x0600, "slot 0 has no bridge");
	for (u32 slot = 1; slot < 32 && device_count < MOST_DEVICES; slot++) {
		u32 id = read4(slot, VENDOR);

		if (id == ~0u || (id & 0xffff) != 0x1af4 || id >> 16 < 0x1040)
			continue;
		check((read1(slot, HEADER) & 0x80) == 0, "a function of several");
		devices[device_count++] = (struct device){
			.kind = (id >> 16) - 0x1040, .place = (void *)slot, .start = start,
		};
	}
}
