/* Devices on the page of descriptors behind memory, as 2.6.32 and 3.1 find them. */

#include "guest.h"

struct descriptor {
	u8 kind, queues, feature_bytes, configuration_bytes;
	volatile u8 status;
	u8 rest[];
} __attribute__((packed));
struct queue {
	u16 size, irq;
	u32 page;
} __attribute__((packed));

static u8 *page;

/* Sixteen bytes at a time, from the stack. */
void early_print(const char *bytes, u32 length)
{
	while (length > 0) {
		char scratch[17];
		u32 count = length < 16 ? length : 16;

		for (u32 n = 0; n < count; n++)
			scratch[n] = bytes[n];
		scratch[count] = 0;
		hypercall(NOTIFY, PHYSICAL(scratch), 0, 0, 0);
		bytes += count;
		length -= count;
	}
}

static void tell(struct descriptor *descriptor)
{
	hypercall(NOTIFY, memory_end + ((u8 *)descriptor - page), 0, 0, 0);
}

/* 2.6.32 tells of every status, 3.1 of a reset and of failure, and once the features are there. */
static void set_status(struct descriptor *descriptor, u8 status)
{
	descriptor->status = status;
	if (FORM == 26 || status == 0)
		tell(descriptor);
}

static void start(struct device *device, u32 features)
{
	struct descriptor *descriptor = device->place;
	u8 *accepted = descriptor->rest + 8 * descriptor->queues + descriptor->feature_bytes;

	set_status(descriptor, 0);
	set_status(descriptor, 1);
	set_status(descriptor, 1 | 2);
	device->accepted = features & device->offered;
	for (u32 n = 0; n < descriptor->feature_bytes; n++)
		accepted[n] = n < 4 ? device->accepted >> 8 * n : 0;
	if (FORM != 26)
		tell(descriptor);
	for (u32 n = 0; n < descriptor->queues && n < 2; n++) {
		struct queue queue = *(struct queue *)(descriptor->rest + 8 * n);
		u32 available = 16 * queue.size;
		u32 used = (available + 4 + 2 * queue.size + PAGE - 1) & ~(PAGE - 1);
		u32 pages = (used + 6 + 8 * queue.size + PAGE - 1) / PAGE;
		u8 *ring = map(queue.page * PAGE, pages, 0);

		ring_at(&device->rings[n], queue.size, ring, ring + available, ring + used);
		device->rings[n].word = queue.page * PAGE;
		device->irqs[n] = queue.irq;
	}
	set_status(descriptor, 1 | 2 | 4);
}

void find_devices(void)
{
	u32 at = 0;

	page = map(memory_end, 1, 0);
	while (at < PAGE && page[at] != 0 && device_count < MOST_DEVICES) {
		struct descriptor *descriptor = (struct descriptor *)(page + at);
		struct device *device = &devices[device_count++];
		u8 *features = descriptor->rest + 8 * descriptor->queues;

		device->kind = descriptor->kind;
		for (u32 n = 0; n < descriptor->feature_bytes && n < 4; n++)
			device->offered |= features[n] << 8 * n;
		device->configuration = features + 2 * descriptor->feature_bytes;
		device->place = descriptor;
		device->start = start;
		at += sizeof(*descriptor) + 8 * descriptor->queues + 2 * descriptor->feature_bytes
			+ descriptor->configuration_bytes;
	}
}
