/* A program that knows /dev/lguest and nothing of this project: each case through the real calls, by name. */
#define _GNU_SOURCE
#include <errno.h>
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGES 512UL
#define PAGE 4096UL
#define CODE 0x10000UL
#define CHECK(what) do { if (!(what)) { printf("line %d: %s (errno %d)\n", __LINE__, #what, errno); exit(1); } } while (0)
#define FAILS(call, number) do { errno = 0; CHECK((call) == -1); CHECK(errno == (number)); } while (0)

enum { INITIALIZE, GETDMA, IRQ, BREAK, EVENTFD };
enum { INIT = 1, CRASH = 2, NOTIFY = 17 };

static unsigned char *memory;
static unsigned char *code;
static int file;

static void byte(unsigned value) { *code++ = value; }

static void load(unsigned opcode, uint32_t value)
{
	byte(opcode);
	memcpy(code, &value, 4);
	code += 4;
}

/* A hypercall by port: number in eax, arguments in rsi, rbx, rcx. */
static void call(uint32_t number, uint32_t first, uint32_t second)
{
	load(0xb8, number);
	load(0xbe, first);
	load(0xbb, second);
	load(0xb9, 0);
	load(0xba, 0x4c48);
	byte(0xef);
}

static void jump(unsigned char *to)
{
	int32_t distance = to - (code + 5);
	byte(0xe9);
	memcpy(code, &distance, 4);
	code += 4;
}

static void stay(void) { byte(0xeb); byte(0xfe); }

static void make_memory(void)
{
	memory = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(memory != MAP_FAILED);
	code = memory + CODE;
}

static long words(int to, unsigned long a, unsigned long b, unsigned long c, unsigned long d, int count)
{
	unsigned long all[4] = { a, b, c, d };
	return write(to, all, count * sizeof(long));
}

static long initialize(void) { return words(file, INITIALIZE, (unsigned long)memory, PAGES, CODE, 4); }

static void begin(void)
{
	file = open("/dev/lguest", O_RDWR);
	CHECK(file >= 0);
	CHECK(initialize() == 3 * sizeof(long));
}

static unsigned long next(void)
{
	unsigned long word = 0;
	CHECK(read(file, &word, sizeof(word)) == sizeof(word));
	return word;
}

static void case_initialize(void)
{
	unsigned long word;
	make_memory();
	call(INIT, 0x6000, 0);
	call(NOTIFY, 0, 0x7000);
	stay();
	file = open("/dev/lguest", O_RDWR);
	CHECK(file >= 0);
	FAILS(read(file, &word, sizeof(word)), EINVAL);
	FAILS(words(file, IRQ, 1, 0, 0, 2), EINVAL);
	FAILS(words(file, EVENTFD, 8, 0, 0, 3), EINVAL);
	FAILS(words(file, INITIALIZE, (unsigned long)memory, PAGES, 0, 3), EINVAL);
	FAILS(write(file, (void *)8, 4 * sizeof(long)), EFAULT);
	FAILS(words(file, INITIALIZE, 0x1000, PAGES, CODE, 4), EFAULT);
	FAILS(words(file, INITIALIZE, (unsigned long)memory, PAGES + 1UL * 1024 * 1024, CODE, 4), EFAULT);
	FAILS(words(file, INITIALIZE, (unsigned long)memory, -1UL, CODE, 4), EFAULT);
	FAILS(words(file, INITIALIZE, (unsigned long)memory, 0, CODE, 4), EFAULT);
	CHECK(initialize() == 3 * sizeof(long));
	FAILS(initialize(), EBUSY);
	CHECK(next() == 0x7000);
}

static void case_nomem(void)
{
	struct rlimit files, none;
	make_memory();
	call(INIT, 0x6000, 0);
	call(NOTIFY, 0, 0x7000);
	stay();
	file = open("/dev/lguest", O_RDWR);
	CHECK(getrlimit(RLIMIT_NOFILE, &files) == 0);
	none = files;
	none.rlim_cur = file + 1;
	CHECK(setrlimit(RLIMIT_NOFILE, &none) == 0);
	errno = 0;
	CHECK(initialize() == -1);
	/* The list of mappings could not be opened either, by which memory is known to be there. */
	CHECK(errno == ENOMEM || errno == EFAULT);
	CHECK(setrlimit(RLIMIT_NOFILE, &files) == 0);
	CHECK(initialize() == 3 * sizeof(long));
	CHECK(next() == 0x7000);
}

static void case_cpu(void)
{
	unsigned long irq[2] = { IRQ, 1 }, word;
	make_memory();
	call(INIT, 0x6000, 0);
	call(NOTIFY, 0, 0x7000);
	stay();
	begin();
	FAILS(pread(file, &word, sizeof(word), 1), EINVAL);
	FAILS(pwrite(file, irq, sizeof(irq), 1), EINVAL);
	CHECK(pwrite(file, irq, sizeof(irq), 0) == 0);
	CHECK(pread(file, &word, sizeof(word), 0) == sizeof(word) && word == 0x7000);
}

static void case_requests(void)
{
	make_memory();
	stay();
	begin();
	CHECK(words(file, IRQ, 31, 0, 0, 2) == 0);
	FAILS(words(file, IRQ, 32, 0, 0, 2), EINVAL);
	FAILS(words(file, IRQ, 0x101, 0, 0, 2), EINVAL);
	FAILS(words(file, IRQ, 1, 0, 0, 1), EINVAL);
	FAILS(words(file, GETDMA, 0, 0, 0, 2), EINVAL);
	FAILS(words(file, BREAK, 1, 0, 0, 2), EINVAL);
	FAILS(words(file, 5, 1, 0, 0, 2), EINVAL);
	FAILS(words(file, EVENTFD, 0, eventfd(0, 0), 0, 3), EINVAL);
	FAILS(words(file, EVENTFD, 8, 999, 0, 3), EBADF);
	FAILS(words(file, EVENTFD, 8, -1UL, 0, 3), EBADF);
	FAILS(write(file, (void *)8, 16), EFAULT);
}

static void case_death(void)
{
	char text[64];
	unsigned long word;
	make_memory();
	call(INIT, 0x6000, 0);
	call(99, 0, 0);
	begin();
	FAILS(read(file, &word, sizeof(word)), ENOENT);
	memset(text, 'x', sizeof(text));
	CHECK(read(file, text, sizeof(text)) == 17 && !strcmp(text, "Bad hypercall 99") && text[17] == 'x');
	memset(text, 'x', sizeof(text));
	CHECK(read(file, text, 3) == 3 && !memcmp(text, "Badx", 4));
	FAILS(read(file, (void *)8, 64), EFAULT);
	FAILS(words(file, IRQ, 1, 0, 0, 2), ENOENT);
	FAILS(words(file, EVENTFD, 8, 0, 0, 3), ENOENT);
	FAILS(initialize(), EBUSY);
}

static void case_eventfd(void)
{
	uint64_t count;
	int event = eventfd(0, EFD_NONBLOCK), other = eventfd(0, EFD_NONBLOCK);
	make_memory();
	call(INIT, 0x6000, 0);
	call(NOTIFY, 0, 0x7000);
	call(NOTIFY, 0, 0x7000);
	call(NOTIFY, 0, 0x8000);
	call(NOTIFY, 0, 0x7000);
	call(NOTIFY, 0, 0x9000);
	stay();
	begin();
	CHECK(words(file, EVENTFD, 0x7000, event, 0, 3) == 0);
	CHECK(words(file, EVENTFD, 0x9000, other, 0, 3) == 0);
	CHECK(next() == 0x8000);
	CHECK(read(event, &count, 8) == 8 && count == 2);
	FAILS(read(other, &count, 8), EAGAIN);
}

static int attached;

static void *attach(void *unused)
{
	for (unsigned long address = 2; address < 200; address++)
		CHECK(words(file, EVENTFD, address << 12, eventfd(0, 0), 0, 3) == 0);
	__atomic_store_n(&attached, 1, __ATOMIC_SEQ_CST);
	return unused;
}

static void case_attach_while_notifying(void)
{
	uint64_t count;
	int event = eventfd(0, EFD_NONBLOCK);
	pthread_t thread;
	unsigned char *again;
	make_memory();
	call(INIT, 0x6000, 0);
	/* r12d = 20000; loop: notify 0x1000; dec r12d; jnz loop */
	byte(0x41), byte(0xbc), byte(0x20), byte(0x4e), byte(0), byte(0);
	again = code;
	call(NOTIFY, 0, 0x1000);
	byte(0x41), byte(0xff), byte(0xcc);
	byte(0x0f), byte(0x85);
	int32_t distance = again - (code + 4);
	memcpy(code, &distance, 4), code += 4;
	call(NOTIFY, 0, 0x500000);
	stay();
	begin();
	CHECK(words(file, EVENTFD, 0x1000, event, 0, 3) == 0);
	CHECK(pthread_create(&thread, NULL, attach, NULL) == 0);
	CHECK(next() == 0x500000);
	CHECK(pthread_join(thread, NULL) == 0 && attached);
	CHECK(read(event, &count, 8) == 8 && count == 20000);
}

static void *read_elsewhere(void *unused)
{
	unsigned long word;
	FAILS(read(file, &word, sizeof(word)), EPERM);
	return unused;
}

static void case_reader(void)
{
	pthread_t thread;
	unsigned long word;
	make_memory();
	call(INIT, 0x6000, 0);
	call(NOTIFY, 0, 0x7000);
	call(NOTIFY, 0, 0x7001);
	stay();
	begin();
	CHECK(pthread_create(&thread, NULL, read_elsewhere, NULL) == 0);
	CHECK(pthread_join(thread, NULL) == 0);
	FAILS(read(file, &word, 4), EINVAL);
	CHECK(next() == 0x7000);
	CHECK(next() == 0x7001);
}

static int files_open(void)
{
	int count = 0;
	DIR *folder = opendir("/proc/self/fd");
	while (readdir(folder))
		count++;
	closedir(folder);
	return count;
}

static void live(void)
{
	int event = eventfd(0, 0);
	file = open("/dev/lguest", O_RDWR);
	CHECK(initialize() == 3 * sizeof(long));
	CHECK(words(file, EVENTFD, 0x9000, event, 0, 3) == 0);
	CHECK(next() == 0x7000);
	CHECK(close(file) == 0);
	FAILS(close(file), EBADF);
	CHECK(close(event) == 0);
}

static void case_close(void)
{
	int before, after;
	file = open("/dev/lguest", O_RDWR);
	CHECK(file >= 0 && close(file) == 0);
	make_memory();
	call(INIT, 0x6000, 0);
	call(NOTIFY, 0, 0x7000);
	stay();
	live();
	before = files_open();
	for (int i = 0; i < 20; i++)
		live();
	for (int i = 0; i < 500 && (after = files_open()) > before; i++)
		usleep(10000);
	CHECK(after <= before + 1);
	CHECK(memory[CODE] == 0xb8);
}

static void case_file(void)
{
	char bytes[4] = "xxxx", path[] = "/tmp/lguest-preload-XXXXXX";
	int other, zero;
	make_memory();
	stay();
	file = open("/dev/lguest", O_RDONLY);
	CHECK(file >= 0);
	FAILS(initialize(), EBADF);
	CHECK(close(file) == 0);
	file = openat(AT_FDCWD, "/dev/lguest", O_WRONLY | O_CLOEXEC);
	CHECK(file >= 0 && fcntl(file, F_GETFD) == FD_CLOEXEC);
	CHECK(initialize() == 3 * sizeof(long));
	FAILS(read(file, bytes, 8), EBADF);
	CHECK(close(file) == 0);
	file = open64("/dev/lguest", O_RDWR);
	CHECK(file >= 0 && close(file) == 0);
	/* A number that is made another file's is a device's no more. */
	file = open("/dev/lguest", O_RDWR);
	zero = open("/dev/zero", O_RDONLY);
	CHECK(dup2(zero, file) == file && close(zero) == 0);
	CHECK(read(file, bytes, 4) == 4 && !memcmp(bytes, "\0\0\0\0", 4) && close(file) == 0);
	/* Other files are what they were. */
	zero = open("/dev/zero", O_RDONLY);
	CHECK(read(zero, bytes, 4) == 4 && !memcmp(bytes, "\0\0\0\0", 4) && close(zero) == 0);
	other = mkstemp(path);
	CHECK(write(other, "abcd", 4) == 4 && pwrite(other, "X", 1, 1) == 1);
	CHECK(pread(other, bytes, 2, 1) == 2 && !memcmp(bytes, "Xc", 2));
	CHECK(close(other) == 0 && unlink(path) == 0);
	FAILS(open("/dev/lguest0", O_RDWR), ENOENT);
	FAILS(read(-1, bytes, 1), EBADF);
	FAILS(read(70000, bytes, 1), EBADF);
}

static int winners, losers;
static pthread_barrier_t barrier;

static void *race(void *unused)
{
	pthread_barrier_wait(&barrier);
	if (initialize() == 3 * sizeof(long))
		__atomic_add_fetch(&winners, 1, __ATOMIC_SEQ_CST);
	else if (errno == EBUSY)
		__atomic_add_fetch(&losers, 1, __ATOMIC_SEQ_CST);
	return unused;
}

static void case_race(void)
{
	pthread_t threads[2];
	make_memory();
	stay();
	file = open("/dev/lguest", O_RDWR);
	pthread_barrier_init(&barrier, NULL, 2);
	for (int i = 0; i < 2; i++)
		CHECK(pthread_create(&threads[i], NULL, race, NULL) == 0);
	for (int i = 0; i < 2; i++)
		CHECK(pthread_join(threads[i], NULL) == 0);
	CHECK(winners == 1 && losers == 1);
}

static void case_memory(void)
{
	unsigned char *loop;
	make_memory();
	memcpy(memory + 0x40000, "here before", 12);
	call(INIT, 0x6000, 0);
	/* mov byte [0x40000], 'H' */
	byte(0xc6), byte(0x04), byte(0x25), byte(0), byte(0), byte(4), byte(0), byte('H');
	loop = code;
	call(NOTIFY, 0, 0x7000);
	jump(loop);
	begin();
	CHECK(!strcmp((char *)memory + 0x40000, "here before"));
	CHECK(next() == 0x7000);
	CHECK(!strcmp((char *)memory + 0x40000, "Here before"));
	CHECK(next() == 0x7000);
	/* New code over old: the value in the second load of the loop. */
	uint32_t value = 0x7008;
	memcpy(loop + 11, &value, 4);
	CHECK(next() == 0x7008);
	value = 0x7010;
	memcpy(loop + 11, &value, 4);
	CHECK(next() == 0x7010);
}

static void case_fork(void)
{
	int status;
	unsigned long word;
	make_memory();
	call(INIT, 0x6000, 0);
	call(NOTIFY, 0, 0x7000);
	stay();
	begin();
	memory[0x40000] = 'p';
	pid_t child = fork();
	if (child == 0) {
		FAILS(read(file, &word, sizeof(word)), EPERM);
		FAILS(words(file, IRQ, 1, 0, 0, 2), EPERM);
		CHECK(memory[0x40000] == 'p');
		memory[0x40000] = 'c';
		CHECK(close(file) == 0);
		_exit(0);
	}
	CHECK(waitpid(child, &status, 0) == child && status == 0);
	CHECK(memory[0x40000] == 'p');
	CHECK(next() == 0x7000);
}

static volatile sig_atomic_t alarms, users;
static void on_alarm(int signal) { (void)signal; alarms++; }
static void on_user(int signal) { (void)signal; users++; }
static pthread_t reader;

static void *poke(void *unused)
{
	usleep(200000);
	pthread_kill(reader, SIGUSR1);
	return unused;
}

static void case_signals(void)
{
	unsigned long word;
	pthread_t thread;
	struct sigaction quiet = { .sa_handler = on_alarm, .sa_flags = SA_RESTART }, loud = { .sa_handler = on_user };
	struct itimerval soon = { .it_value = { .tv_usec = 50000 } };
	make_memory();
	stay();
	begin();
	sigaction(SIGALRM, &quiet, NULL);
	sigaction(SIGUSR1, &loud, NULL);
	reader = pthread_self();
	setitimer(ITIMER_REAL, &soon, NULL);
	CHECK(pthread_create(&thread, NULL, poke, NULL) == 0);
	FAILS(read(file, &word, sizeof(word)), EINTR);
	CHECK(alarms == 1); CHECK(users == 1);
	CHECK(pthread_join(thread, NULL) == 0);
	/* The process' own, without SA_RESTART. */
	quiet.sa_flags = 0;
	sigaction(SIGALRM, &quiet, NULL);
	setitimer(ITIMER_REAL, &soon, NULL);
	FAILS(read(file, &word, sizeof(word)), EINTR);
	CHECK(alarms == 2);
}

int main(int count, char **arguments)
{
	struct { const char *name; void (*run)(void); } cases[] = {
		{ "initialize", case_initialize }, { "nomem", case_nomem }, { "cpu", case_cpu },
		{ "requests", case_requests }, { "death", case_death }, { "eventfd", case_eventfd },
		{ "attach", case_attach_while_notifying }, { "reader", case_reader }, { "close", case_close },
		{ "file", case_file }, { "race", case_race }, { "memory", case_memory }, { "fork", case_fork },
		{ "signals", case_signals },
	};
	setvbuf(stdout, NULL, _IONBF, 0);
	alarm(60);
	for (unsigned i = 0; count == 2 && i < sizeof(cases) / sizeof(*cases); i++)
		if (!strcmp(cases[i].name, arguments[1])) {
			cases[i].run();
			printf("SUCCESS\n");
			return 0;
		}
	return 2;
}
