# The rows, one after the other: the same script natively and in every Guest, run by busybox's shell.
#   TOOLS   the folder of our programs           ROOT   what stands before /usr: the folder of Debian's programs
#   ROWS    names of rows, with commas between   LIMIT  longest for one row, in seconds
# "bench: row NAME" tells the Host what comes; a row that fails says so and the next one runs.
export LD_LIBRARY_PATH=$ROOT/usr/lib/x86_64-linux-gnu PYTHONHOME=$ROOT/usr GCC_EXEC_PREFIX=$ROOT/usr/lib/gcc/
export PATH=$ROOT/usr/bin:$PATH ROOT TOOLS

once() {
    case $1 in
    zlib_ms | lua_ms | sqlite_ms) "$TOOLS/librarybench" "$1" ;;
    python_ms) "$TOOLS/timed" "$1" 2 "$ROOT/usr/bin/python3.11" -S "$TOOLS/work.py" ;;
    script_ms) "$TOOLS/timed" "$1" 2 "$TOOLS/busybox" sh "$TOOLS/thousand.sh" ;;
    compile_ms) "$TOOLS/timed" "$1" 1 "$TOOLS/busybox" sh "$TOOLS/compile.sh" ;;
    one_ms | two_ms) "$TOOLS/timed" "$1" 3 "$TOOLS/busybox" sh "$TOOLS/processors.sh" "$1" ;;
    *) "$TOOLS/guestbench" "$1" ;;
    esac
}

if [ "$1" = once ]; then
    once "$2"
    exit
fi
IFS=,
for row in $ROWS; do
    IFS=' '
    echo "bench: row $row"
    "$TOOLS/busybox" timeout "$LIMIT" "$TOOLS/busybox" sh "$TOOLS/rows.sh" once "$row" || echo "bench: failed $row: status $?"
done
