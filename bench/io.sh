# The rows of `cargo xtask bench io`, natively and in every Guest, run by busybox's shell.
#   ROWS    groups of rows, with commas between        ROOT    what stands before /usr: the folder of Debian's programs
#   DISK    the disk, DIRECT 1 where it is a device    TREE    a tree of files with a repository
#   HOST PORT SPAN    where the errand's server listens, and seconds for a row    ASK    the port where it asks us
# A row is "name figure". What the host does itself, it does when a line says "bench: ...".
libraries=$ROOT/usr/lib/x86_64-linux-gnu
export LD_LIBRARY_PATH=$libraries:$ROOT/lib/x86_64-linux-gnu:$libraries/ceph
export GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0='*' GIT_CONFIG_NOSYSTEM=1 HOME=/tmp

# Terse output of fio, version 3: bandwidths in KiB/s are fields 7 and 48, requests a second 8 and 49 (fio(1), "TERSE OUTPUT").
disk() { # row, pattern, block size, factor, field
    "$ROOT/usr/bin/fio" --minimal --thread --name="$1" --filename="$DISK" --size="$SIZE" --rw="$2" --bs="$3" --direct="$DIRECT" \
        --ioengine="${6:-psync}" --iodepth="${7:-1}" --invalidate=0 --norandommap --runtime="$SPAN" --time_based |
        awk -F ';' -v row="$1" -v field="$5" -v factor="$4" '$1 == 3 { printf "%s %.1f\n", row, $field * factor }'
}

# Without what the Guest's kernel remembers of the files; the host's stays warm for all.
forget() {
    [ -z "$GUEST" ] || echo 3 >/proc/sys/vm/drop_caches
}

for group in $(echo "$ROWS" | tr , ' '); do
    case $group in
    block)
        disk block_read_mbs read 1M 0.001024 7
        disk block_write_mbs write 1M 0.001024 48
        disk random_read_iops randread 4k 1 8
        disk random_write_iops randwrite 4k 1 49
        disk deep_read_iops randread 4k 1 8 libaio 16
        disk deep_write_iops randwrite 4k 1 49 libaio 16
        ;;
    net)
        "$TOOLS/network" "$HOST" "$PORT" "$SPAN"
        "$TOOLS/network" serve "$ASK"
        ;;
    tree)
        forget
        "$TOOLS/timed" tar_ms 1 "$TOOLS/busybox" tar cf - -C "$TREE" src
        # The first writes down which files are which here.
        "$ROOT/usr/bin/git" -C "$TREE" status --short >/dev/null
        forget
        "$TOOLS/timed" git_status_ms 1 "$ROOT/usr/bin/git" -C "$TREE" status --short
        ;;
    console)
        echo "bench: console begins"
        cat "$TOOLS/lines"
        echo "bench: console ends"
        ;;
    esac
done
