/* Words: by the early way until there is a console, then by its driver. */

#include "guest.h"

static struct device *console;
static char buffer[256];

void print_bytes(const char *bytes, u32 length)
{
	while (length > 0) {
		u32 count = length < sizeof(buffer) ? length : sizeof(buffer);

		if (!console) {
			early_print(bytes, length);
			return;
		}
		for (u32 n = 0; n < count; n++)
			buffer[n] = bytes[n];
		offer(&console->rings[1], 1, &(struct piece){ buffer, count, 0 });
		/* Nobody may sleep here, so Linux asks again and again. */
		while (!taken_back(&console->rings[1], 0))
			;
		bytes += count;
		length -= count;
	}
}

void print(const char *text)
{
	u32 length = 0;

	while (text[length])
		length++;
	print_bytes(text, length);
}

void print_number(u32 number)
{
	char digits[10];
	u32 n = sizeof(digits);

	do {
		digits[--n] = '0' + number % 10;
		number /= 10;
	} while (number);
	print_bytes(digits + n, sizeof(digits) - n);
}

static volatile u32 heard;
static char words[64];

static void input_interrupt(void)
{
	u32 length;

	if (console->interrupt_status && !(*console->interrupt_status & 1))
		return;
	if (taken_back(&console->rings[0], &length))
		heard = length;
}

void listen(void)
{
	on_interrupt(console->irqs[0], input_interrupt);
	offer(&console->rings[0], 1, &(struct piece){ words, sizeof(words), 1 });
	print("listening\n");
	wait_until(&heard);
	print("heard ");
	print_bytes(words, heard);
}

void use_console(struct device *device)
{
	device->start(device, 0);
	/* Nobody has to be told that words are out. */
	device->rings[1].available[0] = 1;
	console = device;
}
