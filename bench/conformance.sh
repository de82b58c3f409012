# Runs the tests that /tests/list names, one after the other, each in a folder and a session of its own; init.sh reads
# this file. "conformance: NAME STATUS" is a test's result, 137 that it took longer than LIMIT seconds.
export PATH=/usr/bin:/bin HOME=/root
mkdir -p /dev/shm /dev/mqueue /sys
mount -t tmpfs shm /dev/shm
mount -t mqueue mqueue /dev/mqueue
mount -t sysfs sysfs /sys
while read -r name; do
    echo "conformance: begin $name"
    mkdir /tmp/test
    cd /tmp/test
    timeout -s KILL "$LIMIT" setsid "/tests/$name" </dev/null >/tmp/output 2>&1
    echo "conformance: $name $?"
    # What the test left running; we are process 1, which this spares.
    kill -KILL -1 2>/dev/null
    cd /
    rm -rf /tmp/test
done </tests/list
