#!/bin/sh
# First process of a Guest that is being measured. The first line is the sign that user code runs; its arrival at the
# Host is the boot time. The kernel hands words that it does not know from its command line to us as variables: WORK
# says what to do. Then off.
echo "bench: first user instruction"
mount -t proc proc /proc
mount -t devtmpfs dev /dev 2>/dev/null
mount -t tmpfs tmp /tmp
case $WORK in
rows) TOOLS=/bench ROOT= sh /bench/rows.sh ;;
idle)
    # A shell at its prompt, on the console; the Host ends the machine.
    echo "bench: prompt"
    exec sh -i </dev/console >/dev/console 2>&1
    ;;
io)
    # The drivers in an order that works; the address is the one of QEMU's user network and of ours.
    mount -t sysfs sysfs /sys
    for module in $(cat /modules/order); do
        [ ! -r "/modules/$module.ko" ] || insmod "/modules/$module.ko"
    done
    if [ -e /sys/class/net/eth0 ]; then
        ifconfig lo 127.0.0.1
        ifconfig eth0 10.0.2.15 netmask 255.255.255.0
        route add default gw 10.0.2.2
    fi
    mkdir -p /tree
    case $SHARE in
    '') ;;
    9p) mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000 tree /tree ;;
    virtiofs) mount -t virtiofs tree /tree ;;
    *) mount -t hostfs -o "$SHARE" none /tree ;;
    esac
    export GUEST=1 TOOLS=/bench ROOT= TREE=/tree DISK DIRECT=1 SIZE HOST=10.0.2.2 PORT ASK SPAN ROWS
    sh /bench/io.sh
    ;;
# In this process: a test that signals all others cannot end it.
script) . /work.sh ;;
esac
echo "bench: end"
poweroff -f
