/* What Linux' drivers do with each device: the console talks, the disk is read and written, the network asks who has its
 * router's address. Answers are waited for asleep. */

#include "guest.h"

enum { NET = 1, BLOCK = 2, CONSOLE = 3, ENTROPY = 4 };
void use_console(struct device *device);

static struct device *disk, *net;
static volatile u32 disk_done, net_done;

/* A line of PCI's says nothing by itself: its cause is read, and that clears it. */
static int ours(struct device *device)
{
	return !device->interrupt_status || *device->interrupt_status & 1;
}

static void disk_interrupt(void)
{
	if (ours(disk) && taken_back(&disk->rings[0], 0))
		disk_done = 1;
}

static struct {
	u32 kind, priority;
	u64 sector;
} header;
static u8 status;

/* One request: what it is, its data, how it went, each for itself. */
static void request(u32 kind, u64 sector, void *data, u32 length)
{
	struct piece pieces[3] = { { &header, 16, 0 } };
	u32 count = 1;

	header.kind = kind, header.priority = 0, header.sector = sector;
	status = 0xff;
	if (length)
		pieces[count++] = (struct piece){ data, length, kind == 0 };
	pieces[count++] = (struct piece){ &status, 1, 1 };
	disk_done = 0;
	offer(&disk->rings[0], count, pieces);
	wait_until(&disk_done);
	check(status == 0, "the disk refused");
}

static void use_disk(struct device *device)
{
	static char sectors[1024];
	const char *words = "written by a kernel of 32 bits\n";
	u32 blocks;

	disk = device;
	/* Longest segment, segments, flush: what there is of it. */
	device->start(device, 1 << 1 | 1 << 2 | 1 << 9);
	on_interrupt(device->irqs[0], disk_interrupt);
	blocks = *(volatile u32 *)device->configuration;
	print("disk of ");
	print_number(blocks);
	print(" sectors: ");
	request(0, 1, sectors, 1024);
	print(sectors);
	for (u32 n = 0; n < 1024; n++)
		sectors[n] = 0;
	for (u32 n = 0; words[n]; n++)
		sectors[n] = words[n];
	/* As a file system's journal has it; 2.6.32 marks both as barriers, whatever was offered. */
	u32 mark = FORM == 26 ? 1u << 31 : 0;
	request(1 | mark, blocks - 2, sectors, 512);
	check(device->accepted & 1 << 9, "the disk cannot flush");
	request(4 | mark, 0, 0, 0);
}

static u8 heard[2048], heard_header[12];

static void net_interrupt(void)
{
	u32 length;

	if (ours(net) && taken_back(&net->rings[0], &length))
		net_done = length;
}

static void use_net(struct device *device)
{
	static u8 frame[60], frame_header[12];
	/* Before version 1 it has ten bytes. */
	u32 size = FORM == 41 ? 12 : 10;

	net = device;
	device->start(device, 1 << 0 | 1 << 5);
	check(device->accepted & 1 << 5, "the network has no address");
	on_interrupt(device->irqs[0], net_interrupt);
	device->rings[1].available[0] = 1;
	offer(&device->rings[0], 2, (struct piece[]){ { heard_header, size, 1 }, { heard, sizeof(heard), 1 } });
	/* Who has 10.0.2.2? */
	for (u32 n = 0; n < 6; n++) {
		frame[n] = 0xff;
		frame[6 + n] = frame[22 + n] = device->configuration[n];
	}
	static const u8 question[] = { 8, 6, 0, 1, 8, 0, 6, 4, 0, 1 };
	static const u8 addresses[][4] = { { 10, 0, 2, 15 }, { 10, 0, 2, 2 } };
	for (u32 n = 0; n < sizeof(question); n++)
		frame[12 + n] = question[n];
	for (u32 n = 0; n < 4; n++)
		frame[28 + n] = addresses[0][n], frame[38 + n] = addresses[1][n];
	offer(&device->rings[1], 2, (struct piece[]){ { frame_header, size, 0 }, { frame, sizeof(frame), 0 } });
	wait_until(&net_done);
	check(net_done >= size + 42 && heard[12] == 8 && heard[13] == 6 && heard[21] == 2, "no answer to who it is");
	check(heard[28] == 10 && heard[31] == 2, "somebody else answered");
	print("the router answers\n");
}

void use_devices(void)
{
	static const char *const names[] = { "nothing", "net", "block", "console", "entropy" };

	for (u32 n = 0; n < device_count; n++)
		if (devices[n].kind == CONSOLE)
			use_console(&devices[n]);
	for (u32 n = 0; n < device_count; n++) {
		print("virtio");
		print_number(n);
		print(": ");
		print(devices[n].kind <= ENTROPY ? names[devices[n].kind] : "another");
		print("\n");
	}
	for (u32 n = 0; n < device_count; n++) {
		if (devices[n].kind == BLOCK)
			use_disk(&devices[n]);
		if (devices[n].kind == NET)
			use_net(&devices[n]);
	}
}
