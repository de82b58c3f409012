/* A Launcher of a paravirtual i386 Guest, as the original's was one: memory, boot parameters, INITIALIZE, read. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096UL
#define RAM_PAGES 1024UL
#define PAGES (RAM_PAGES + 4)
#define CODE 0x10000U
#define DATA 0x20000U
#define TEXT 0x1100U
#define CHECK(what) do { if (!(what)) { printf("line %d: %s (errno %d)\n", __LINE__, #what, errno); exit(1); } } while (0)
#define FAILS(call, number) do { errno = 0; CHECK((call) == -1); CHECK(errno == (number)); } while (0)

enum { INITIALIZE, IRQ = 2, EVENTFD = 4 };
enum { INIT = 1, SHUTDOWN = 2, NOTIFY = 17 };

static unsigned char *memory, *code;
static int file;

static void word(uint32_t at, uint32_t value) { memcpy(memory + at, &value, 4); }

/* mov eax, number; mov ebx, a; mov ecx, b; int 0x1f */
static void call(uint32_t number, uint32_t a, uint32_t b)
{
	uint32_t values[3] = { number, a, b };
	unsigned char opcodes[3] = { 0xb8, 0xbb, 0xb9 };
	for (int i = 0; i < 3; i++) {
		*code++ = opcodes[i];
		memcpy(code, &values[i], 4);
		code += 4;
	}
	*code++ = 0xcd;
	*code++ = 0x1f;
}

/* Boot parameters, and the shared page of a kernel of 2011 (its form is told by the last two of its fields). */
static void begin(void)
{
	unsigned long request[4] = { INITIALIZE, 0, PAGES, CODE };
	memory = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(memory != MAP_FAILED);
	word(0x1e8, 1);
	word(0x2d8, RAM_PAGES * PAGE);
	word(DATA + 4, 1);
	memset(memory + DATA + 24, 0xff, 64);
	word(DATA + 1384, 0xc0000000);
	word(DATA + 1388, 0x80);
	code = memory + CODE;
	call(INIT, DATA, 0);
	request[1] = (unsigned long)memory;
	file = open("/dev/lguest", O_RDWR);
	CHECK(file >= 0 && write(file, request, sizeof(request)) == 3 * sizeof(long));
}

static unsigned long next(void)
{
	unsigned long value = 0;
	CHECK(read(file, &value, sizeof(value)) == sizeof(value));
	return value;
}

static void life(void)
{
	char text[64];
	uint64_t count;
	unsigned long value, bell[3] = { EVENTFD, (RAM_PAGES + 1) * PAGE, 0 }, irq[2] = { IRQ, 1 };
	int event = eventfd(0, EFD_NONBLOCK);
	begin();
	strcpy((char *)memory + TEXT, "Power down");
	call(NOTIFY, TEXT, 0);
	call(NOTIFY, (RAM_PAGES + 1) * PAGE, 0);
	call(NOTIFY, RAM_PAGES * PAGE, 0);
	call(SHUTDOWN, TEXT, 1);
	bell[2] = event;
	CHECK(write(file, bell, sizeof(bell)) == 0);
	CHECK(write(file, irq, sizeof(irq)) == 0);
	/* Early text is the Launcher's to read, as every notify that nobody listens for. */
	CHECK(next() == TEXT);
	CHECK(next() == RAM_PAGES * PAGE);
	CHECK(read(event, &count, 8) == 8 && count == 1);
	FAILS(read(file, &value, sizeof(value)), ENOENT);
	CHECK(read(file, text, sizeof(text)) == 18 && !strcmp(text, "CRASH: Power down"));
	CHECK(close(file) == 0);
	/* And another, which wants to begin anew. */
	begin();
	call(SHUTDOWN, 0x40000000, 2);
	FAILS(read(file, &value, sizeof(value)), ERESTART);
	FAILS(read(file, &value, sizeof(value)), ERESTART);
	FAILS(write(file, irq, sizeof(irq)), ENOENT);
	CHECK(close(file) == 0);
	/* And one that calls what is no call. */
	begin();
	call(3, 0, 0);
	FAILS(read(file, &value, sizeof(value)), ENOENT);
	CHECK(read(file, text, sizeof(text)) > 0 && strstr(text, "hypercall 3"));
}

int main(int count, char **arguments)
{
	setvbuf(stdout, NULL, _IONBF, 0);
	alarm(60);
	if (count != 2 || strcmp(arguments[1], "life"))
		return 2;
	life();
	printf("SUCCESS\n");
	return 0;
}
