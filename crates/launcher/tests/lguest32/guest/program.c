/* A program of the user's own: an ELF file of 32 bits in the initial RAM disk, put into a space by its segments, as Linux does with
 * the first process of its archive. */

#include "guest.h"

struct file {
	u8 magic[16];
	u16 kind, machine;
	u32 version, entry, segments;
	u32 sections, flags;
	u16 size, segment_size, count;
};
struct segment {
	u32 kind, offset, address, physical, in_file, in_memory, flags, align;
};
#define LOADED 1

u32 load_program(const u8 *bytes)
{
	const struct file *file = (const struct file *)bytes;

	check(file->magic[0] == 0x7f && file->magic[4] == 1 && file->machine == 3, "the initrd is no program of 32 bits");
	for (u32 n = 0; n < file->count; n++) {
		const struct segment *segment = (const struct segment *)(bytes + file->segments + n * file->segment_size);

		if (segment->kind != LOADED)
			continue;
		u32 end = segment->address + segment->in_memory;
		for (u32 at = segment->address & ~(PAGE - 1); at < end; at += PAGE) {
			u8 *page = user_page(0, at);

			/* What begins in the page before is there already. */
			for (u32 k = 0; k < PAGE; k++) {
				u32 place = at + k - segment->address;
				if (place < segment->in_file)
					page[k] = bytes[segment->offset + place];
			}
		}
	}
	for (u32 at = PROGRAM_STACK - 16 * PAGE; at < PROGRAM_STACK; at += PAGE)
		user_page(0, at);
	return file->entry;
}
