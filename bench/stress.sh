# stress-ng in the Guest, class after class, then all at once: CLASSES, SECONDS (each), WORKERS come as variables.
# "stress: begin CLASS" and "stress: end CLASS STATUS" tell the Host; its own report stands between.
export PATH=/usr/bin:/bin
mkdir -p /dev/shm /sys /work
mount -t tmpfs shm /dev/shm
mount -t sysfs sysfs /sys
cd /work
one() {
    name=$1
    shift
    echo "stress: begin $name"
    stress-ng --verify --metrics-brief --timeout "${TIME}s" --cache-level 2 --temp-path /work --vm-bytes 64M "$@" 2>&1
    echo "stress: end $name $?"
}
all=
for class in $(echo "$CLASSES" | tr , ' '); do
    one "$class" "--$class" "$WORKERS"
    all="$all --$class 1"
done
# shellcheck disable=SC2086
one together $all
