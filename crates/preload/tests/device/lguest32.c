/* A Launcher of a paravirtual i386 Guest, as the original's was one: memory, boot parameters, INITIALIZE, read. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/wait.h>
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
enum { INIT = 1, SHUTDOWN = 2, LOAD_IDT_ENTRY = 6, HALT = 10, NOTIFY = 17 };
#define STACK 0x30000U
#define HANDLER 0x40000U
#define FIRST_VECTOR 32

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

/* What the original's Launchers served a ring with: a process in the same memory, with files of its own, that sleeps on the eventfd
 * and raises the ring's interrupt. Its end is said, for the parent hears of it as of any child's. */
static volatile int served;
static int bell;
static int serve(void *unused)
{
	uint64_t count;
	unsigned long irq[2] = { IRQ, 1 }, other[3] = { EVENTFD, RAM_PAGES * PAGE, bell };
	if (read(bell, &count, 8) != 8)
		return 1;
	if (write(file, other, sizeof(other)) != -1 || read(file, other, sizeof(other)) != -1)
		return 2;
	if (write(file, irq, sizeof(irq)) != 0)
		return 3;
	served = 1;
	close(file);
	return 0;
}

/* One that asks without an end, until it is killed wherever it is. */
static int pester(void *unused)
{
	unsigned long irq[2] = { IRQ, 2 };
	for (;;)
		if (write(file, irq, sizeof(irq)) != 0)
			return 1;
}

static pid_t relative(int (*act)(void *))
{
	char *stack = malloc(32768);
	pid_t child = clone(act, stack + 32768, CLONE_VM | SIGCHLD, NULL);
	CHECK(child > 0);
	return child;
}

static void relatives(void)
{
	char text[64];
	unsigned long value, request[3] = { EVENTFD, (RAM_PAGES + 1) * PAGE, 0 };
	int status;
	begin();
	strcpy((char *)memory + TEXT, "Power down");
	*code++ = 0xbc; /* mov esp, STACK */
	value = STACK;
	memcpy(code, &value, 4);
	code += 4;
	*code++ = 0xba; /* mov edx, the gate's upper half */
	value = HANDLER | 0x8e00;
	memcpy(code, &value, 4);
	code += 4;
	call(LOAD_IDT_ENTRY, FIRST_VECTOR + 1, 0x610000 | (HANDLER & 0xffff));
	call(NOTIFY, (RAM_PAGES + 1) * PAGE, 0);
	call(HALT, 0, 0);
	call(SHUTDOWN, TEXT, 1);
	code = memory + HANDLER;
	call(NOTIFY, RAM_PAGES * PAGE, 0);
	call(SHUTDOWN, TEXT, 1);
	/* More of them are killed at their work than there are places for. */
	for (int i = 0; i < 100; i++) {
		pid_t pest = relative(pester);
		usleep(i * 37 % 1000);
		CHECK(kill(pest, SIGKILL) == 0);
		CHECK(waitpid(pest, &status, 0) == pest && WIFSIGNALED(status));
	}
	bell = eventfd(0, 0);
	request[2] = bell;
	CHECK(write(file, request, sizeof(request)) == 0);
	pid_t child = relative(serve);
	CHECK(next() == RAM_PAGES * PAGE);
	CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
	CHECK(WEXITSTATUS(status) == 0 && served);
	/* The file that it closed was its own. */
	FAILS(read(file, &value, sizeof(value)), ENOENT);
	CHECK(read(file, text, sizeof(text)) == 18 && !strcmp(text, "CRASH: Power down"));
	CHECK(close(file) == 0);
}

/* Copies of the number are the same Guest, until the last of them is closed. */
static void copies(void)
{
	unsigned long value, irq[2] = { IRQ, 1 };
	char text[64];
	int first, names[5], zero = open("/dev/zero", O_RDWR);
	begin();
	first = file;
	call(NOTIFY, RAM_PAGES * PAGE, 0);
	call(NOTIFY, RAM_PAGES * PAGE, 0);
	call(NOTIFY, RAM_PAGES * PAGE, 0);
	call(3, 0, 0);
	CHECK((names[0] = dup(file)) >= 0 && dup2(file, names[0] + 50) == names[0] + 50);
	names[1] = names[0] + 50;
	CHECK(dup2(file, file) == file);
	CHECK((names[2] = dup3(names[1], names[0] + 51, O_CLOEXEC)) == names[0] + 51);
	FAILS(dup3(file, file, 0), EINVAL);
	CHECK((names[3] = fcntl(file, F_DUPFD, 300)) >= 300);
	CHECK((names[4] = fcntl(names[3], F_DUPFD_CLOEXEC, 400)) >= 400);
	CHECK(fcntl(names[4], F_GETFD) == FD_CLOEXEC && fcntl(names[3], F_GETFD) == 0);
	FAILS(dup(-1), EBADF);
	FAILS(fcntl(-1, F_DUPFD, 0), EBADF);
	for (int i = 0; i < 5; i++)
		CHECK(write(names[i], irq, sizeof(irq)) == 0);
	CHECK(next() == RAM_PAGES * PAGE);
	CHECK(close(first) == 0);
	FAILS(close(first), EBADF);
	file = names[4];
	CHECK(next() == RAM_PAGES * PAGE);
	/* One that another file gets, one that is to be closed later, and ranges. */
	CHECK(dup2(zero, names[0]) == names[0] && read(names[0], text, 4) == 4 && !text[0]);
	CHECK(close_range(names[3], names[3], 4) == 0 && write(names[3], irq, sizeof(irq)) == 0);
	CHECK(close_range(names[1], names[3], 0) == 0);
	for (int i = 1; i < 4; i++)
		FAILS(write(names[i], irq, sizeof(irq)), EBADF);
	CHECK(next() == RAM_PAGES * PAGE);
	FAILS(read(file, &value, sizeof(value)), ENOENT);
	/* A number of the last name's own, when it is the only one. */
	CHECK((first = dup(file)) >= 0 && close(file) == 0);
	CHECK(read(first, text, sizeof(text)) > 0 && strstr(text, "hypercall 3"));
	closefrom(first);
	FAILS(read(first, &value, sizeof(value)), EBADF);
	/* What is no device's is copied as ever. */
	CHECK((zero = open("/dev/zero", O_RDWR)) >= 0 && (first = fcntl(zero, F_DUPFD, 500)) >= 500);
	CHECK(read(first, text, 4) == 4 && close(zero) == 0 && close(first) == 0);
}

int main(int count, char **arguments)
{
	setvbuf(stdout, NULL, _IONBF, 0);
	alarm(60);
	if (count == 2 && !strcmp(arguments[1], "life"))
		life();
	else if (count == 2 && !strcmp(arguments[1], "relatives"))
		relatives();
	else if (count == 2 && !strcmp(arguments[1], "copies"))
		copies();
	else
		return 2;
	printf("SUCCESS\n");
	return 0;
}
