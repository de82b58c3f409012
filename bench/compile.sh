# Compiles, assembles, links and runs the generated program of 5,000 lines; prints what the program prints.
out=$(mktemp -d /tmp/compile-XXXXXX) || exit 1
"$ROOT/usr/bin/x86_64-linux-gnu-gcc-12" --sysroot="$ROOT/" -B"$ROOT/usr/bin/" -O2 -o "$out/program" "$TOOLS/program.c" &&
    "$out/program"
status=$?
rm -r "$out"
exit $status
