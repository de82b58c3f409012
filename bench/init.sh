#!/bin/sh
# First process of a Guest that is being measured. The first line is the sign that user code runs; its arrival at the
# Host is the boot time. Then the benchmark, then off.
echo "bench: first user instruction"
mount -t proc proc /proc
mount -t devtmpfs dev /dev 2>/dev/null
[ ! -x /guestbench ] || /guestbench
echo "bench: end"
poweroff -f
