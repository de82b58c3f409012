// guestbench: what a Guest's processor, memory and kernel can do, in eleven rows.
//
// usage: guestbench [ROW...]   without a name all rows run; a name may come twice, and then its row runs twice
//
// Runs natively and inside a Guest, unchanged and static. Each row prints "name value check": the value is a time,
// so less is always better; the check is a result of the row's work, the same on every machine, so that a fast wrong
// answer shows (rows of the kernel have none and print 0). A row takes the best of three tries: noise only adds.
//
// Build: gcc -O2 -static -o guestbench guestbench.c
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { TRIES = 3 };

static const char *self;

static double seconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec * 1e-9;
}

// A linear congruential generator (Knuth, MMIX): the same numbers everywhere.
static uint64_t next(uint64_t *state) {
  *state = *state * 6364136223846793005u + 1442695040888963407u;
  return *state >> 33;
}

// hash: BLAKE2s' round function over a buffer: adds, xors and rotates in registers, loads from L1. ns per block.
static uint32_t rotate(uint32_t x, int n) { return x >> n | x << (32 - n); }
static void mix(uint32_t *v, int a, int b, int c, int d, uint32_t x, uint32_t y) {
  v[a] += v[b] + x, v[d] = rotate(v[d] ^ v[a], 16), v[c] += v[d], v[b] = rotate(v[b] ^ v[c], 12);
  v[a] += v[b] + y, v[d] = rotate(v[d] ^ v[a], 8), v[c] += v[d], v[b] = rotate(v[b] ^ v[c], 7);
}
static double hash(uint64_t *check) {
  enum { BLOCKS = 60000 };
  static uint32_t data[16 * 256];
  uint64_t seed = 1;
  for (int i = 0; i < 16 * 256; i++)
    data[i] = next(&seed);
  uint32_t v[16] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
  double start = seconds();
  for (int block = 0; block < BLOCKS; block++) {
    const uint32_t *m = data + block % 256 * 16;
    for (int round = 0; round < 10; round++) {
      for (int i = 0; i < 4; i++)
        mix(v, i, 4 + i, 8 + i, 12 + i, m[(2 * i + round) & 15], m[(2 * i + 1 + round) & 15]);
      for (int i = 0; i < 4; i++)
        mix(v, i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4, m[(8 + 2 * i) & 15], m[(9 + 2 * i) & 15]);
    }
  }
  *check = (uint64_t)v[0] << 32 | v[9];
  return (seconds() - start) / BLOCKS * 1e9;
}

// sort: the C library's qsort with a comparison through a pointer: calls, returns, branches nobody predicts. ms.
static int ascending(const void *a, const void *b) {
  uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
  return (x > y) - (x < y);
}
static double sort(uint64_t *check) {
  enum { COUNT = 200000 };
  uint32_t *numbers = malloc(COUNT * sizeof *numbers);
  uint64_t seed = 2;
  for (int i = 0; i < COUNT; i++)
    numbers[i] = next(&seed);
  double start = seconds();
  qsort(numbers, COUNT, sizeof *numbers, ascending);
  double took = seconds() - start;
  *check = numbers[COUNT / 3];
  free(numbers);
  return took * 1e3;
}

// chase: each load's address is the load before: what one memory access costs, in 2 MiB. ns per step.
static double chase(uint64_t *check) {
  enum { NODES = 1 << 15, STEPS = 3000000 };
  struct node {
    struct node *next;
    char rest[56];
  } *nodes = malloc(NODES * sizeof *nodes);
  int *order = malloc(NODES * sizeof *order);
  uint64_t seed = 3;
  for (int i = 0; i < NODES; i++)
    order[i] = i;
  for (int i = NODES - 1; i > 0; i--) {
    int j = next(&seed) % (i + 1), kept = order[i];
    order[i] = order[j], order[j] = kept;
  }
  for (int i = 0; i < NODES; i++)
    nodes[order[i]].next = nodes + order[(i + 1) % NODES];
  struct node *node = nodes;
  double start = seconds();
  for (int i = 0; i < STEPS; i++)
    node = node->next;
  double took = seconds() - start;
  *check = node - nodes;
  free(nodes), free(order);
  return took / STEPS * 1e9;
}

// float: a sum of quotients: scalar double precision. ns per term.
static double floating(uint64_t *check) {
  enum { TERMS = 8000000 };
  double sum = 0, start = seconds();
  for (int i = 1; i <= TERMS; i++)
    sum += 1.0 / ((double)i * i);
  double took = seconds() - start;
  *check = (uint64_t)(sum * 1e12);
  return took / TERMS * 1e9;
}

// memcpy: the C library's, 4 MiB at a time. us per MiB.
static double copy(uint64_t *check) {
  enum { MIB = 4, TIMES = 30 };
  char *from = malloc(MIB << 20), *to = malloc(MIB << 20);
  memset(from, 1, MIB << 20), memset(to, 2, MIB << 20);
  double start = seconds();
  for (int i = 0; i < TIMES; i++) {
    from[i] = i;
    memcpy(to, from, MIB << 20);
    __asm__ volatile("" : : "r"(to) : "memory");
  }
  double took = seconds() - start;
  *check = to[TIMES - 1];
  free(from), free(to);
  return took / (MIB * TIMES) * 1e6;
}

// syscall: into the kernel and back, nothing done there. ns.
static double null_call(uint64_t *check) {
  enum { CALLS = 100000 };
  double start = seconds();
  for (int i = 0; i < CALLS; i++)
    syscall(SYS_getppid);
  *check = 0;
  return (seconds() - start) / CALLS * 1e9;
}

// read: 4 KiB of zeros: a call that stores. ns.
static double read_zeros(uint64_t *check) {
  enum { READS = 30000 };
  static char page[4096];
  int zero = open("/dev/zero", O_RDONLY);
  double start = seconds();
  for (int i = 0; i < READS; i++)
    if (read(zero, page, sizeof page) != sizeof page)
      exit(1);
  double took = seconds() - start;
  close(zero);
  *check = 0;
  return took / READS * 1e9;
}

// fork: a process is made, ends, is waited for. us.
static double forks(uint64_t *check) {
  enum { FORKS = 100 };
  double start = seconds();
  for (int i = 0; i < FORKS; i++) {
    pid_t child = fork();
    if (!child)
      _exit(0);
    waitpid(child, 0, 0);
  }
  *check = 0;
  return (seconds() - start) / FORKS * 1e6;
}

// exec: as fork, and the child becomes this program anew. us.
static double execs(uint64_t *check) {
  enum { EXECS = 60 };
  double start = seconds();
  for (volatile int i = 0; i < EXECS; i++) {
    pid_t child = vfork();
    if (!child) {
      execl(self, self, "nothing", (char *)0);
      _exit(1);
    }
    int status;
    if (waitpid(child, &status, 0) != child || status)
      exit(1);
  }
  *check = 0;
  return (seconds() - start) / EXECS * 1e6;
}

// fault: the first touch of a fresh page. ns.
static double faults(uint64_t *check) {
  enum { BYTES = 16 << 20 };
  char *pages = mmap(0, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  madvise(pages, BYTES, MADV_NOHUGEPAGE);
  double start = seconds();
  for (int i = 0; i < BYTES; i += 4096)
    pages[i] = 1;
  double took = seconds() - start;
  munmap(pages, BYTES);
  *check = 0;
  return took / (BYTES / 4096) * 1e9;
}

// pipe: a byte to another process and back: two switches. us.
static double round_trips(uint64_t *check) {
  enum { TRIPS = 5000 };
  int there[2], back[2];
  char byte = 0;
  if (pipe(there) || pipe(back))
    exit(1);
  pid_t child = fork();
  if (!child) {
    for (int i = 0; i < TRIPS; i++)
      if (read(there[0], &byte, 1) != 1 || write(back[1], &byte, 1) != 1)
        break;
    _exit(0);
  }
  double start = seconds();
  for (int i = 0; i < TRIPS; i++)
    if (write(there[1], &byte, 1) != 1 || read(back[0], &byte, 1) != 1)
      exit(1);
  double took = seconds() - start;
  waitpid(child, 0, 0);
  close(there[0]), close(there[1]), close(back[0]), close(back[1]);
  *check = 0;
  return took / TRIPS * 1e6;
}

int main(int count, char **arguments) {
  static const struct {
    const char *name;
    double (*run)(uint64_t *);
  } rows[] = {
      {"hash_ns", hash},           {"sort_ms", sort},        {"chase_ns", chase},  {"float_ns", floating},
      {"memcpy_us", copy},         {"syscall_ns", null_call}, {"read4k_ns", read_zeros}, {"fork_us", forks},
      {"exec_us", execs},          {"fault_ns", faults},     {"pipe_us", round_trips},
  };
  enum { ROWS = sizeof rows / sizeof *rows };
  // The exec row's child has nothing to do.
  if (count == 2 && !strcmp(arguments[1], "nothing"))
    return 0;
  self = arguments[0];
  for (int wanted = 1; wanted < count || (count == 1 && wanted <= ROWS); wanted++) {
    int i = count == 1 ? wanted - 1 : 0;
    while (count > 1 && i < ROWS && strcmp(rows[i].name, arguments[wanted]))
      i++;
    if (i == ROWS)
      return 2;
    double best = 1e300;
    uint64_t check = 0;
    for (int attempt = 0; attempt < TRIES; attempt++) {
      double took = rows[i].run(&check);
      best = took < best ? took : best;
    }
    printf("%s %.3f %llx\n", rows[i].name, best, (unsigned long long)check);
    fflush(stdout);
  }
  return 0;
}
