#!/bin/sh
# The first process of a Debian Guest: makes a root that programs recognise, runs one session, reports how it
# ended, turns the machine off. The Launcher leaves what it wants in /lguest/session (session.rs):
#   PORT           the session's terminal: /dev/ttyS0, or /dev/hvc0
#   MODE=console   both ends are a person's terminal: PORT is a real terminal, with job control
#   MODE=pipes     input or output is a pipe or a file: bytes pass through PORT as they are
#   COLUMNS, ROWS, TERM   the person's terminal
#   SHARES   the host's directories, as TAG:ro or TAG:rw, each to be found at /mnt/TAG
#   PORTS    virtio's ports by name, each to be found as /dev/virtio-ports/NAME
#   WORD   what marks the session's output in the console's stream (marker.rs)
# and the command, if there is one, in /lguest/command. The second serial port is the control channel: we write
# "begun" at once, "ready" when input may come, and "status N" when the session has ended; in the mode of pipes, the Launcher writes a
# line when it has seen the end of the output.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev 2>/dev/null
[ ! -c /dev/ttyS1 ] || echo begun >/dev/ttyS1
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
ln -sf /proc/self/fd /dev/fd
hostname lguest
cd /root

# Drivers that this kernel has as modules, numbered in an order that works (modules.rs).
for module in /lguest/modules/*.ko; do
    [ ! -r "$module" ] || insmod "$module"
done
rm -rf /lguest/modules

# The user network has one plan of addresses, and is known by the address of its card (networks.rs): nobody has to ask, and
# the session finds it ready. On other networks a DHCP server is asked while the session begins.
ifconfig lo 127.0.0.1
if [ -r /sys/class/net/eth0/address ]; then
    read -r card </sys/class/net/eth0/address
    case $card in
    02:6c:67:*)
        ifconfig eth0 10.0.2.15 netmask 255.255.255.0
        route add default gw 10.0.2.2
        echo nameserver 10.0.2.3 >/etc/resolv.conf ;;
    *)
        # What udhcpc calls with what it was told (its own examples/udhcp/simple.script, in short).
        cat >/lguest/lease <<'END'
#!/bin/sh
case $1 in
bound | renew)
    ifconfig "$interface" "$ip" netmask "$subnet"
    [ -z "$router" ] || route add default gw "${router%% *}"
    for server in $dns; do echo "nameserver $server"; done >/etc/resolv.conf ;;
esac
END
        chmod +x /lguest/lease
        ifconfig eth0 up
        udhcpc -i eth0 -s /lguest/lease -t 3 -n -q >/dev/null 2>&1 & ;;
    esac
fi

MODE=console COLUMNS=80 ROWS=24 TERM=linux WORD= SHARES= PORT=/dev/ttyS0 PORTS=
[ -r /lguest/session ] && . /lguest/session
export TERM
# hvc0 forgets its modes when nobody has it open, and holds senders back without RTS, which it does not know.
flow=crtscts
case $PORT in /dev/hvc*) flow=; exec 7<>"$PORT" ;; esac

for share in $SHARES; do
    mkdir -p "/mnt/${share%:*}"
    mount -t virtiofs -o "${share##*:}" "${share%:*}" "/mnt/${share%:*}"
done

# What udev does: the driver hears of its ports in messages, a moment after it was loaded.
for port in $PORTS; do
    mkdir -p /dev/virtio-ports
    for attempt in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        for found in /sys/class/virtio-ports/*; do
            [ "$(cat "$found/name" 2>/dev/null)" != "$port" ] || ln -sf "../${found##*/}" "/dev/virtio-ports/$port"
        done
        [ ! -e "/dev/virtio-ports/$port" ] || break
        sleep 0.1
    done
done

# Writes the mark "b" before the session's output or "e" after it.
mark() {
    [ -z "$WORD" ] || printf '\036%s%s' "$WORD" "$1"
}

control=/dev/ttyS1
[ -c $control ] || control=/dev/null
stty raw -echo clocal 2>/dev/null <$control

if [ -r /lguest/command ]; then
    program="sh /lguest/command"
else
    program="sh"
fi

if [ "$MODE" = pipes ]; then
    # The tty only carries bytes: no echo, no signals, no newline games. Two bytes keep a meaning on the way in,
    # and the Launcher quotes them: ^D ends the input, ^V quotes. RTS stops the Launcher while our buffers are full.
    stty sane -echo -isig -ixon -icrnl -opost $flow \
        intr undef quit undef erase undef kill undef start undef stop undef susp undef \
        werase undef rprnt undef eol undef eof ^D lnext ^V <"$PORT"
    mkfifo /lguest/input /lguest/output
    mark b >"$PORT"
    # Opened for both directions first, so that no opening waits for the other side.
    exec 8<>/lguest/output
    cat /lguest/output >"$PORT" 8>&- &
    writer=$!
    # Not cat: its sendfile holds the pipe's lock while it waits for the next line, and keeps the last one from the program.
    dd bs=4096 <"$PORT" >/lguest/input 2>/dev/null 8>&- &
    echo ready >$control
    $program </lguest/input >/lguest/output 2>&1 7>&- 8>&-
    status=$?
    if [ -n "$WORD" ]; then
        # The mark goes the way of the output, behind all that was written, and the Launcher answers when it came
        # out. A process left behind may hold the output open for ever, and a reader may take its time.
        mark e >&8
        read -r answer <$control
    else
        exec 8>&-
        (sleep 2; kill $writer) 2>/dev/null &
        wait $writer 2>/dev/null
    fi
else
    # With RTS, a paste that is larger than the tty's buffers waits instead of losing its end.
    stty sane $flow rows "$ROWS" cols "$COLUMNS" <"$PORT"
    echo ready >$control
    PS1='\h:\w\$ ' setsid -c $program <"$PORT" >"$PORT" 2>&1 7>&-
    status=$?
    mark e >"$PORT"
fi

# Setting a mode waits until what was written has left the port (tcsetattr with TCSADRAIN).
stty sane <"$PORT"
echo "status $status" >$control
stty sane <$control 2>/dev/null
poweroff -f
