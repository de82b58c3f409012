# A shell script that starts 1,000 processes: the path makes the shell execute a program and not its own `true`.
i=0
while [ $i -lt 1000 ]; do
    "$TOOLS/busybox" true
    i=$((i + 1))
done
echo $i
