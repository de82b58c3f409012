//! The C program that is compiled in the Guest: 5,000 lines, made here, the same every time.
//!
//! Three kinds of function take turns: integer arithmetic with a loop and a switch, arrays of structures, floating
//! point. Each is called once by `main`, which prints one number that depends on all of them.

use std::fmt::Write;

/// How many lines the program has at least.
const LINES: usize = 5_000;

const HEAD: &str = "#include <stdint.h>\n#include <stdio.h>\n#include <string.h>\n\n\
                    struct item {\n  uint32_t key;\n  double weight;\n  char name[16];\n};\n\n";

/// The program's text.
pub fn text() -> String {
    let mut text = HEAD.to_owned();
    let mut calls = String::new();
    let mut count = 0;
    while text.lines().count() + calls.lines().count() < LINES {
        function(&mut text, count).expect("a string takes text");
        writeln!(calls, "  sum = sum * 31 + f{count}(sum & 1023);").expect("a string takes text");
        count += 1;
    }
    text + "int main(void) {\n  uint64_t sum = 1;\n"
        + &calls
        + "  printf(\"%llx\\n\", (unsigned long long)sum);\n  return 0;\n}\n"
}

fn function(text: &mut String, n: usize) -> std::fmt::Result {
    let (a, b, c) = (n % 13 + 3, n * 7 % 31 + 5, n * 17 % 101 + 1);
    match n % 3 {
        0 => write!(
            text,
            "static uint64_t f{n}(uint64_t x) {{\n  uint64_t y = x ^ {c};\n  for (int i = 0; i < {b}; i++) {{\n    \
             switch ((y >> 3) % 5) {{\n    case 0:\n      y += x * {a};\n      break;\n    case 1:\n      \
             y ^= y << {a};\n      break;\n    case 2:\n      y -= {c};\n      break;\n    case 3:\n      \
             y = y >> 7 | y << 57;\n      break;\n    default:\n      y = y * {b} + i;\n    }}\n  }}\n  \
             return y;\n}}\n\n"
        ),
        1 => write!(
            text,
            "static uint64_t f{n}(uint64_t x) {{\n  struct item items[{a}];\n  memset(items, 0, sizeof items);\n  \
             for (int i = 0; i < {a}; i++) {{\n    items[i].key = (uint32_t)(x * {c} + i * {b});\n    \
             snprintf(items[i].name, sizeof items[i].name, \"%u\", items[i].key);\n  }}\n  \
             for (int i = 1; i < {a}; i++)\n    for (int j = i; j > 0 && strcmp(items[j - 1].name, \
             items[j].name) > 0; j--) {{\n      struct item kept = items[j];\n      items[j] = items[j - 1];\n      \
             items[j - 1] = kept;\n    }}\n  return items[{a} / 2].key;\n}}\n\n"
        ),
        _ => write!(
            text,
            "static uint64_t f{n}(uint64_t x) {{\n  double sum = 0, term = 1.0 / (x + {c});\n  \
             for (int i = 1; i < {b}; i++) {{\n    sum += term * i;\n    term *= 0.{a}5;\n    \
             if (sum > {c}.0)\n      sum -= {a};\n    else if (sum < -1.0)\n      sum = -sum;\n  }}\n  \
             int64_t whole = (int64_t)(sum * 1024);\n  return (uint64_t)whole;\n}}\n\n"
        ),
    }
}

#[test]
fn the_program_has_five_thousand_lines_and_few_more() {
    let lines = text().lines().count();
    assert!((LINES..LINES + 30).contains(&lines), "{lines}");
    assert_eq!(text(), text());
}
