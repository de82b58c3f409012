# What the Guest's own tools say of its devices, for `cargo xtask guest-tools`. The root is of Debian's packages.
#   $1 HOST      where the host's iperf3 listens, on the gateway's address
#   $2 NAME      a name that only the host's resolver knows, and $3 its address
# A line "check NAME ok", or "check NAME failed" and what was said. "guest-tools: serving": the host may fetch our page.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C

check() { # name, pattern (of grep -E) that the output must have, command...
    name=$1 pattern=$2
    shift 2
    said=$("$@" 2>&1)
    status=$?
    if [ $status = 0 ] && echo "$said" | grep -qE "$pattern"; then
        echo "check $name ok"
    else
        echo "check $name failed: status $status, said: $(echo "$said" | tail -3 | tr '\n' '|')"
    fi
}

# Virtio's numbers on PCI are 0x1040 and the kind (virtio 1.2, 4.1.2.1): 1 network, 2 disk, 4 entropy, 5 balloon, 26 files.
for kind in 1041 1042 1044 1045 105a; do
    check "lspci-$kind" "1af4:$kind" lspci -n
done
check lspci-msix 'MSI-X: Enable\+' lspci -vv -d 1af4:1042
for kind in 1 2 4 5 1a; do
    check "sys-virtio-$kind" "0x00*$kind\$" sh -c 'cat /sys/bus/virtio/devices/*/device'
done
driven() {
    for device in /sys/bus/virtio/devices/*; do
        [ -L "$device/driver" ] || echo "${device##*/} has no driver"
    done
    echo looked
}
check sys-virtio-drivers '^looked$' driven

# lguest-init may have done it already.
ip link set lo up
ip addr show dev eth0 | grep -q 'inet ' || {
    ip link set eth0 up
    ip addr add 10.0.2.15/24 dev eth0
    ip route add default via 10.0.2.2
}
echo 'nameserver 10.0.2.3' >/etc/resolv.conf
check ethtool-driver '^driver: virtio_net$' ethtool -i eth0
check ethtool-link 'Link detected: yes' ethtool eth0
check ethtool-checksums '^tx-checksumming: on$' ethtool -k eth0
check ethtool-segments '^tcp-segmentation-offload: on$' ethtool -k eth0
check ping-the-gateway ' 0% packet loss' ping -c 3 -i 0.2 10.0.2.2
check name-by-a-resolver-on-loopback "$3" getent ahostsv4 "$2"
check iperf3-out 'receiver' iperf3 -c 10.0.2.2 -p "$1" -t 2
check iperf3-in 'receiver' iperf3 -c 10.0.2.2 -p "$1" -t 2 -R

mkdir -p /page
echo 'a page from the Guest' >/page/index.html
busybox httpd -p 80 -h /page
echo 'guest-tools: serving'
sleep 3

# A file system that the host has killed while it was written to: first what a mount does, then a look that changes nothing.
replayed() {
    e2fsck -p /dev/vda
    [ $? -le 1 ]
}
check e2fsck-replays '' replayed
check e2fsck-is-clean 'Pass 5' e2fsck -f -n /dev/vda
check shared-file-locks 'second waits' \
    sh -c 'exec 8>/mnt/files/lock; flock 8; flock -n /mnt/files/lock true || echo second waits'
# Its buffer is as large as a cache, which on some hosts is larger than this Guest's memory: of the second level, then.
check shared-file-stress 'successful run completed' stress-ng --cache-level 2 --temp-path /mnt/files --timeout 20 --verify \
    --hdd 1 --hdd-bytes 8M --dentry 1 --rename 1 --link 1 --symlink 1 --fallocate 1 --fallocate-bytes 8M --flock 1 --lockf 1 \
    --seek 1 --sync-file 1 --sync-file-bytes 4M --dir 1 --xattr 1 --chmod 1 --chown 1 --utime 1 --copy-file 1 --copy-file-bytes 128M
check shared-set-group-id '^2755 50 50$' sh -c 'mkdir /mnt/files/team; chgrp 50 /mnt/files/team; chmod 2755 /mnt/files/team
    mkdir /mnt/files/team/below; touch /mnt/files/team/below/file
    echo $(stat -c "%a %g" /mnt/files/team/below) $(stat -c %g /mnt/files/team/below/file)'
check shared-capabilities 'cap_net_raw=ep' sh -c 'cp /bin/busybox /mnt/files/ping
    setcap cap_net_raw+ep /mnt/files/ping; getcap /mnt/files/ping'
check shared-capabilities-go-with-a-write '^gone$' sh -c 'echo >>/mnt/files/ping; getcap /mnt/files/ping | grep . || echo gone'
echo 'guest-tools: end'
exit 7
