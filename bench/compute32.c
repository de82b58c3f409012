// compute32: what a processor does with 32-bit code as a compiler makes it, in ten rows; and what one system call costs.
//
// usage: compute32, with neither arguments nor a C library: the same file runs natively and as the only program of the lguest
// kernel in crates/launcher/tests/lguest32/guest, so it asks for three system calls only, write, exit and getpid, by int 0x80.
//
// Each row prints "name ticks check": thousands of ticks of the processor's counter, which a Guest reads as its host does, so
// less is better and the two are comparable; the check is a result of the row's work, the same everywhere. A row takes the
// best of three tries: noise only adds.
//
// Build: cc -m32 -O2 -ffreestanding -nostdlib -static -o compute32 compute32.c
typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

enum { TRIES = 3, WRITE = 4, EXIT = 1, GET_PID = 20 };

static u32 ask(u32 call, u32 a, u32 b, u32 c) {
  asm volatile("int $0x80" : "+a"(call) : "b"(a), "c"(b), "d"(c) : "memory");
  return call;
}

static u64 ticks(void) {
  u32 low, high;
  asm volatile("rdtsc" : "=a"(low), "=d"(high) : : "memory");
  return (u64)high << 32 | low;
}

// What a compiler calls by itself where there is no library.
void *memcpy(void *to, const void *from, u32 count) {
  u8 *at = to;
  for (const u8 *end = (const u8 *)from + count, *byte = from; byte < end; byte++)
    *at++ = *byte;
  return to;
}
void *memset(void *to, int value, u32 count) {
  for (volatile u8 *at = to, *end = at + count; at < end; at++)
    *at = value;
  return to;
}

static u32 seed;
static u32 next(void) {
  seed = seed * 1664525 + 1013904223;
  return seed >> 8;
}

// sha256: adds, rotates and logic on eight words that do not fit the registers.
static u32 K[64];
static u32 rotated(u32 x, int n) { return x >> n | x << (32 - n); }
static void block(u32 *state, const u8 *bytes) {
  u32 w[64], s[8];
  for (int i = 0; i < 16; i++, bytes += 4)
    w[i] = (u32)bytes[0] << 24 | bytes[1] << 16 | bytes[2] << 8 | bytes[3];
  for (int i = 16; i < 64; i++) {
    u32 a = w[i - 15], b = w[i - 2];
    w[i] = w[i - 16] + (rotated(a, 7) ^ rotated(a, 18) ^ a >> 3) + w[i - 7] + (rotated(b, 17) ^ rotated(b, 19) ^ b >> 10);
  }
  for (int i = 0; i < 8; i++)
    s[i] = state[i];
  for (int i = 0; i < 64; i++) {
    u32 one = rotated(s[4], 6) ^ rotated(s[4], 11) ^ rotated(s[4], 25);
    u32 t = s[7] + one + ((s[4] & s[5]) ^ (~s[4] & s[6])) + K[i] + w[i];
    u32 zero = rotated(s[0], 2) ^ rotated(s[0], 13) ^ rotated(s[0], 22);
    u32 most = (s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]);
    s[7] = s[6], s[6] = s[5], s[5] = s[4], s[4] = s[3] + t, s[3] = s[2], s[2] = s[1], s[1] = s[0], s[0] = t + zero + most;
  }
  for (int i = 0; i < 8; i++)
    state[i] += s[i];
}
static u32 sha256(void) {
  static u8 data[4096];
  u32 state[8] = {1, 2, 3, 4, 5, 6, 7, 8};
  for (int i = 0; i < 64; i++)
    K[i] = next() * 2654435761u;
  for (u32 i = 0; i < sizeof(data); i++)
    data[i] = next();
  for (int times = 0; times < 3000; times++)
    for (u32 at = 0; at < sizeof(data); at += 64)
      block(state, data + at);
  return state[0] ^ state[7];
}

// sort: quicksort of 200,000 numbers, then each looked up by halving.
enum { NUMBERS = 200000 };
static u32 numbers[NUMBERS];
static void quicksort(u32 *from, u32 *to) {
  while (to - from > 1) {
    u32 pivot = from[(to - from) / 2], *low = from, *high = to - 1;
    while (low <= high) {
      while (*low < pivot)
        low++;
      while (*high > pivot)
        high--;
      if (low <= high) {
        u32 kept = *low;
        *low++ = *high, *high-- = kept;
      }
    }
    quicksort(from, high + 1);
    from = low;
  }
}
static u32 sort(void) {
  u32 sum = 0;
  for (int i = 0; i < NUMBERS; i++)
    numbers[i] = next();
  quicksort(numbers, numbers + NUMBERS);
  for (int i = 0; i < NUMBERS; i++) {
    u32 wanted = next(), low = 0, high = NUMBERS;
    while (low < high) {
      u32 middle = (low + high) / 2;
      if (numbers[middle] < wanted)
        low = middle + 1;
      else
        high = middle;
    }
    sum = sum * 31 + low;
  }
  return sum;
}

// chase: one cycle through 8 MiB, a cache line a step: what memory takes, and the look for each page.
enum { LINES = 131072 };
static struct line {
  struct line *next;
  u32 value, rest[14];
} lines[LINES];
static u32 chase(void) {
  u32 sum = 0;
  for (u32 i = 0; i < LINES; i++)
    numbers[i] = i;
  for (u32 i = LINES - 1; i > 0; i--) {
    u32 other = (next() ^ next() << 11) % i, kept = numbers[i];
    numbers[i] = numbers[other], numbers[other] = kept;
  }
  for (u32 i = 0; i < LINES; i++)
    lines[i] = (struct line){.next = lines + numbers[i], .value = i};
  struct line *at = lines;
  for (int i = 0; i < 4 * LINES; i++, at = at->next)
    sum = sum * 3 + at->value;
  return sum;
}

// lz: text packed against what came before it, found by a hash of three bytes, and unpacked again.
enum { TEXT = 1 << 18 };
static u8 text[TEXT], packed[TEXT * 2], again[TEXT];
static u32 pack(void) {
  static u32 last[4096];
  u32 out = 0, at = 0;
  for (u32 i = 0; i < 4096; i++)
    last[i] = TEXT;
  while (at + 3 <= TEXT) {
    u32 hash = ((text[at] | text[at + 1] << 8 | text[at + 2] << 16) * 2654435761u) >> 20;
    u32 before = last[hash], length = 0;
    last[hash] = at;
    if (before < TEXT && at - before < 65536)
      while (length < 255 && at + length < TEXT && text[before + length] == text[at + length])
        length++;
    if (length >= 4) {
      u32 back = at - before;
      packed[out++] = 1, packed[out++] = length, packed[out++] = back, packed[out++] = back >> 8;
      at += length;
    } else
      packed[out++] = 0, packed[out++] = text[at++];
  }
  while (at < TEXT)
    packed[out++] = 0, packed[out++] = text[at++];
  return out;
}
static u32 lz(void) {
  static const char words[] = "the guest a host page table interrupt of and memory ring kernel in to ";
  u32 sum = 0;
  for (u32 i = 0; i < TEXT;) {
    u32 start = next() % (sizeof(words) - 1);
    for (u32 n = 0; n < 4 + next() % 12 && i < TEXT; n++)
      text[i++] = words[(start + n) % (sizeof(words) - 1)];
  }
  for (int times = 0; times < 16; times++) {
    u32 end = pack(), out = 0;
    for (u32 at = 0; at < end;)
      if (packed[at++] == 0)
        again[out++] = packed[at++];
      else {
        u32 length = packed[at], back = packed[at + 1] | packed[at + 2] << 8;
        for (at += 3; length--; out++)
          again[out] = again[out - back];
      }
    sum = sum * 31 + end;
    text[times * 97] ^= 1;
  }
  for (u32 i = 0; i < TEXT; i++)
    sum = sum * 31 + again[i];
  return sum;
}

// interpreter: a machine with a stack and twelve instructions that looks for primes.
enum { PUSH, LOAD, STORE, ADD, SUB, MUL, LESS, JUMP0, JUMP, PEEK, POKE, END };
static u32 interpreter(void) {
  enum { MOST = 400000 };
  static u32 memory[MOST + 8], stack[16];
  // for i = 2; i < MOST: if !memory[i]: count++; for j = i * 2; j < MOST; j += i: memory[j] = 1
  static const int code[] = {
      PUSH, 2, STORE, 0, PUSH, 0, STORE, 2,                             // 0: i = 2, count = 0
      LOAD, 0, PUSH, MOST, LESS, JUMP0, 57,                             // 8: while i < MOST
      LOAD, 0, PEEK, PUSH, 1, LESS, JUMP0, 48,                          // 15: if memory[i] < 1
      LOAD, 2, PUSH, 1, ADD, STORE, 2, LOAD, 0, PUSH, 2, MUL, STORE, 1, // 23: count += 1, j = i * 2
      LOAD, 1, PUSH, MOST, LESS, JUMP0, 48,                             // 37: while j < MOST (else 48)
      JUMP, 58, 0, 0,                                                   // 44: to the loop's body
      LOAD, 0, PUSH, 1, ADD, STORE, 0, JUMP, 8,                         // 48: i += 1
      END,                                                              // 57
      PUSH, 1, LOAD, 1, POKE, LOAD, 1, LOAD, 0, ADD, STORE, 1, JUMP, 37 // 58: memory[j] = 1, j += i
  };
  u32 variables[3] = {0}, *top = stack;
  for (int i = 0; i < MOST; i++)
    memory[i] = 0;
  for (const int *at = code;;)
    switch (*at++) {
    case PUSH: *top++ = *at++; break;
    case LOAD: *top++ = variables[*at++]; break;
    case STORE: variables[*at++] = *--top; break;
    case ADD: top--, top[-1] += *top; break;
    case SUB: top--, top[-1] -= *top; break;
    case MUL: top--, top[-1] *= *top; break;
    case LESS: top--, top[-1] = top[-1] < *top; break;
    case JUMP0: at = *--top ? at + 1 : code + *at; break;
    case JUMP: at = code + *at; break;
    case PEEK: top[-1] = memory[top[-1]]; break;
    case POKE: top -= 2, memory[top[1]] = *top; break;
    case END: return variables[2];
    }
}

// matrix: integers, 128 by 128.
static u32 matrix(void) {
  enum { SIDE = 128 };
  static int a[SIDE * SIDE], b[SIDE * SIDE], c[SIDE * SIDE];
  u32 sum = 0;
  for (int i = 0; i < SIDE * SIDE; i++)
    a[i] = next() & 1023, b[i] = next() & 1023;
  for (int times = 0; times < 40; times++)
    for (int i = 0; i < SIDE; i++)
      for (int j = 0; j < SIDE; j++) {
        int all = times;
        for (int k = 0; k < SIDE; k++)
          all += a[i * SIDE + k] * b[k * SIDE + j];
        c[i * SIDE + j] = all;
      }
  for (int i = 0; i < SIDE * SIDE; i++)
    sum = sum * 31 + c[i];
  return sum;
}

// queens: ten of them, by recursion: calls, returns and arguments on the stack.
static u32 place(u32 row, u32 columns, u32 up, u32 down, u32 *tried) {
  enum { ALL = (1 << 10) - 1 };
  u32 found = 0;
  if (row == 10)
    return 1;
  for (u32 free = ALL & ~(columns | up | down); free; free &= free - 1) {
    u32 bit = free & -free;
    *tried += bit;
    found += place(row + 1, columns | bit, (up | bit) << 1, (down | bit) >> 1, tried);
  }
  return found;
}
static u32 queens(void) {
  u32 tried = 0, found = 0;
  for (int times = 0; times < 160; times++)
    found += place(0, 0, 0, 0, &tried);
  return found * 1000003 + tried;
}

// wide: products and remainders of 64 bits in 32-bit registers.
static u32 wide(void) {
  u64 x = 88172645463325252ull, sum = 0;
  for (int i = 0; i < 12000000; i++) {
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    sum += x * 6364136223846793005ull + (sum >> 29);
  }
  return sum >> 32 ^ sum;
}

// x87 and sse: five bodies that attract each other, in the two ways that 32-bit code has for floating point.
struct body {
  double at[3], speed[3], mass;
};
#define BODIES                                                                                                         \
  struct body all[5];                                                                                                  \
  for (int i = 0; i < 5; i++) {                                                                                        \
    for (int k = 0; k < 3; k++)                                                                                        \
      all[i].at[k] = i * 3 + k * k + 1, all[i].speed[k] = (i ^ k) * 0.125;                                             \
    all[i].mass = 1.0 / (i + 1);                                                                                       \
  }                                                                                                                    \
  for (int step = 0; step < 500000; step++) {                                                                           \
    for (int i = 0; i < 5; i++)                                                                                        \
      for (int j = i + 1; j < 5; j++) {                                                                                \
        double between[3], squared = 0.5;                                                                              \
        for (int k = 0; k < 3; k++)                                                                                    \
          between[k] = all[i].at[k] - all[j].at[k], squared += between[k] * between[k];                                \
        double pull = 0.001 / (squared * squared);                                                                     \
        for (int k = 0; k < 3; k++) {                                                                                  \
          all[i].speed[k] -= between[k] * all[j].mass * pull;                                                          \
          all[j].speed[k] += between[k] * all[i].mass * pull;                                                          \
        }                                                                                                              \
      }                                                                                                                \
    for (int i = 0; i < 5; i++)                                                                                        \
      for (int k = 0; k < 3; k++)                                                                                      \
        all[i].at[k] += all[i].speed[k] * 0.001;                                                                       \
  }                                                                                                                    \
  return (u32)(int)(all[0].at[0] * 1000000) ^ (u32)(int)(all[4].speed[2] * 1000000)
__attribute__((target("fpmath=387"))) static u32 x87(void) { BODIES; }
__attribute__((target("sse2,fpmath=sse"))) static u32 sse(void) { BODIES; }

// syscall: one that does nothing, 20,000 times: a trap, the kernel's segments, and the way back.
static u32 syscall(void) {
  u32 answered = 0;
  for (int i = 0; i < 20000; i++)
    answered += ask(GET_PID, 0, 0, 0) > 0;
  return answered;
}

static char line[64];
static u32 length;
static void say(const char *words) {
  while (*words)
    line[length++] = *words++;
}
static void say_number(u32 number) {
  char digits[11];
  u32 at = sizeof(digits) - 1;
  digits[at] = 0;
  do
    digits[--at] = '0' + number % 10;
  while (number /= 10);
  say(digits + at);
}

static void measure(const char *name, u32 (*work)(void)) {
  u64 best = -1;
  u32 check = 0;
  for (int try = 0; try < TRIES; try++) {
    seed = 1;
    u64 start = ticks();
    check = work();
    u64 took = ticks() - start;
    best = took < best ? took : best;
  }
  length = 0;
  say(name), say(" "), say_number(best >> 10), say(" "), say_number(check), say("\n");
  ask(WRITE, 1, (u32)line, length);
}

__attribute__((noreturn, force_align_arg_pointer)) void _start(void) {
  static const char first[] = "first process\n";
  ask(WRITE, 1, (u32)first, sizeof(first) - 1);
  measure("sha256", sha256);
  measure("sort", sort);
  measure("chase", chase);
  measure("lz", lz);
  measure("interpreter", interpreter);
  measure("matrix", matrix);
  measure("queens", queens);
  measure("wide", wide);
  measure("x87", x87);
  measure("sse", sse);
  measure("syscall", syscall);
  ask(EXIT, 0, 0, 0);
  __builtin_unreachable();
}
