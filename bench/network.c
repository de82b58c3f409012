// network: TCP from inside a machine to the errand's server on the host, both ways and back and forth.
//
// usage: network ADDRESS PORT SECONDS     network serve PORT
// Prints "net_out_mbit N", "net_in_mbit N" and "net_turns_us N": megabits a second that the other end received, that
// came here, and microseconds for a byte there and back. The first byte of a connection says what is wanted: o, i or t.
// After an o the server says how many bytes it got, eight bytes, lowest first: what was only queued does not count.
// The second form gives each byte of its one connection back, until that ends.
// Build: gcc -O2 -static -o network network.c
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static char bytes[128 << 10];

static double seconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec * 1e-9;
}

static void fail(const char *what) {
  perror(what);
  exit(1);
}

static int wish(char **arguments, char what) {
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(arguments[2]))};
  inet_pton(AF_INET, arguments[1], &to.sin_addr);
  int line = socket(AF_INET, SOCK_STREAM, 0), one = 1;
  setsockopt(line, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  // The errand's server was there before the machine, but the machine's network may need a moment.
  for (int attempt = 0; connect(line, (struct sockaddr *)&to, sizeof to); attempt++) {
    if (attempt == 50)
      fail("connect");
    usleep(100000);
  }
  if (write(line, &what, 1) != 1)
    fail("write");
  return line;
}

static int serve(const char *port) {
  struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
  int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1;
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (bind(listener, (struct sockaddr *)&at, sizeof at) || listen(listener, 1))
    fail("listen");
  // Nobody came: the row is missing, and the rest goes on.
  alarm(60);
  puts("bench: serving");
  fflush(stdout);
  int line = accept(listener, 0, 0);
  setsockopt(line, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  for (char byte; read(line, &byte, 1) == 1;)
    if (write(line, &byte, 1) != 1)
      fail("write");
  return 0;
}

int main(int count, char **arguments) {
  if (count == 3)
    return serve(arguments[2]);
  if (count != 4)
    return 2;
  double limit = atof(arguments[3]);

  int line = wish(arguments, 'o');
  double start = seconds();
  while (seconds() - start < limit)
    if (write(line, bytes, sizeof bytes) < 0)
      fail("write");
  shutdown(line, SHUT_WR);
  uint64_t got;
  if (recv(line, &got, sizeof got, MSG_WAITALL) != sizeof got)
    fail("the server's count");
  printf("net_out_mbit %.1f\n", got * 8e-6 / (seconds() - start));
  close(line);

  line = wish(arguments, 'i');
  got = 0;
  for (start = seconds(); seconds() - start < limit;) {
    ssize_t length = read(line, bytes, sizeof bytes);
    if (length <= 0)
      fail("read");
    got += length;
  }
  printf("net_in_mbit %.1f\n", got * 8e-6 / (seconds() - start));
  close(line);

  line = wish(arguments, 't');
  got = 0;
  for (start = seconds(); seconds() - start < limit; got++)
    if (write(line, bytes, 1) != 1 || read(line, bytes, 1) != 1)
      fail("a turn");
  printf("net_turns_us %.2f\n", (seconds() - start) * 1e6 / got);
  return 0;
}
