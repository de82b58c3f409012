/* A queue of virtio's, from the driver's side: descriptors, what is offered, what came back. */

#include "guest.h"

enum { NEXT = 1, DEVICE_WRITES = 2 };

struct device devices[MOST_DEVICES];
u32 device_count;

void ring_at(struct ring *ring, u16 size, void *descriptors, void *available, void *used)
{
	ring->size = size;
	ring->descriptors = descriptors;
	ring->available = available;
	ring->used = used;
}

void offer(struct ring *ring, u32 count, const struct piece *pieces)
{
	u16 first = ring->next;

	for (u32 n = 0; n < count; n++) {
		u16 here = ring->next;
		ring->next = (here + 1) % ring->size;
		ring->descriptors[here].address = PHYSICAL(pieces[n].start);
		ring->descriptors[here].length = pieces[n].length;
		ring->descriptors[here].flags = (n + 1 < count ? NEXT : 0) | (pieces[n].device_writes ? DEVICE_WRITES : 0);
		ring->descriptors[here].next = ring->next;
	}
	ring->available[2 + ring->available[1] % ring->size] = first;
	asm volatile("lock addl $0, (%%esp)" : : : "memory");
	ring->available[1]++;
	asm volatile("lock addl $0, (%%esp)" : : : "memory");
	if (ring->used[0] & 1)
		return;
	if (ring->notify)
		*ring->notify = ring->word;
	else
		hypercall(NOTIFY, ring->word, 0, 0, 0);
}

int taken_back(struct ring *ring, u32 *length)
{
	if (ring->used[1] == ring->seen)
		return 0;
	asm volatile("" : : : "memory");
	if (length)
		*length = *(volatile u32 *)(ring->used + 2 + 4 * (ring->seen % ring->size) + 2);
	ring->seen++;
	return 1;
}
