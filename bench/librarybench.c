// librarybench: three programs that people run, as libraries in one static program: zlib, Lua, SQLite.
//
// usage: librarybench ROW...
// Each row prints "name milliseconds check", as guestbench does: the check is a result of the work, the same on every
// machine. Build: gcc -O2 -static -o librarybench librarybench.c -llua5.4 -lsqlite3 -lz -lm
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <sqlite3.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <zlib.h>

enum { TRIES = 3 };

static double seconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec * 1e-9;
}

static void require(int holds, const char *what) {
  if (!holds) {
    fprintf(stderr, "librarybench: %s\n", what);
    exit(1);
  }
}

// zlib: 1 MiB of words, compressed and brought back.
static uint64_t compression(void) {
  enum { SIZE = 1 << 20 };
  static unsigned char plain[SIZE], back[SIZE];
  static unsigned char packed[SIZE + SIZE / 8];
  static const char *const words[] = {"bus ", "guest ", "host ", "launcher ", "switcher ", "a ", "the ", "page "};
  uint64_t seed = 4;
  size_t at = 0;
  while (at < SIZE - 16) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    const char *word = words[seed >> 61];
    memcpy(plain + at, word, strlen(word));
    at += strlen(word);
    plain[at++] = 'a' + (seed >> 40) % 26;
  }
  uLongf length = sizeof packed, whole = SIZE;
  require(compress2(packed, &length, plain, SIZE, 6) == Z_OK, "compress2");
  require(uncompress(back, &whole, packed, length) == Z_OK && !memcmp(plain, back, SIZE), "uncompress");
  return (uint64_t)length << 32 | adler32(1, plain, SIZE);
}

// Lua: tables, strings, closures and a recursion.
static uint64_t script(void) {
  static const char text[] =
      "local function fib(n) if n < 2 then return n end return fib(n - 1) + fib(n - 2) end\n"
      "local t = {} for i = 1, 40000 do t[i] = (i * 7919) % 40009 end table.sort(t)\n"
      "local s = {} for i = 1, 20000 do s[#s + 1] = tostring(t[i]) .. ',' end\n"
      "local text, n = table.concat(s), 0 for word in text:gmatch('%d+') do n = n + #word end\n"
      "local x = 0.0 for i = 1, 300000 do x = x + 1 / (i * i) end\n"
      "return fib(23) + n + t[20000] + math.floor(x * 1e6)\n";
  lua_State *state = luaL_newstate();
  require(state != 0, "luaL_newstate");
  luaL_openlibs(state);
  require(luaL_dostring(state, text) == LUA_OK, "the Lua script");
  uint64_t result = lua_tointeger(state, -1);
  lua_close(state);
  return result;
}

// SQLite: a table in memory: rows in, an index, a join with groups.
static int keep_number(void *sum, int columns, char **values, char **names) {
  (void)names;
  for (int i = 0; i < columns; i++)
    *(uint64_t *)sum = *(uint64_t *)sum * 31 + strtoull(values[i] ? values[i] : "0", 0, 10);
  return 0;
}
static uint64_t database(void) {
  sqlite3 *handle;
  uint64_t sum = 0;
  require(sqlite3_open(":memory:", &handle) == SQLITE_OK, "sqlite3_open");
  static const char text[] =
      "create table t(a integer, b text, c integer);"
      "with recursive n(i) as (select 1 union all select i + 1 from n where i < 30000)"
      " insert into t select i, 'row ' || (i * 7919 % 30011), i * 31 % 977 from n;"
      "create index byc on t(c, a);"
      "update t set c = c + 1 where a % 3 = 0;"
      "select count(*), sum(length(b)) from t where b like '%7%';"
      "select x.c, count(*), max(y.a) from t x join t y on x.c = y.c where x.a < 3000 group by x.c order by 2, 1 limit 50;";
  require(sqlite3_exec(handle, text, keep_number, &sum, 0) == SQLITE_OK, "the SQL");
  sqlite3_close(handle);
  return sum;
}

int main(int count, char **arguments) {
  static const struct {
    const char *name;
    uint64_t (*run)(void);
  } rows[] = {{"zlib_ms", compression}, {"lua_ms", script}, {"sqlite_ms", database}};
  for (int wanted = 1; wanted < count; wanted++) {
    int i = 0;
    while (i < 3 && strcmp(rows[i].name, arguments[wanted]))
      i++;
    require(i < 3, "no row of that name");
    double best = 1e300;
    uint64_t check = 0;
    for (int attempt = 0; attempt < TRIES; attempt++) {
      double start = seconds();
      check = rows[i].run();
      double took = seconds() - start;
      best = took < best ? took : best;
    }
    printf("%s %.3f %llx\n", rows[i].name, best * 1e3, (unsigned long long)check);
    fflush(stdout);
  }
  return 0;
}
