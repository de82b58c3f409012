#!/bin/sh
# The Guest as an ELF file: build.sh FORM TABLES OUTPUT. FORM is 26, 31 or 41, TABLES narrow (entries of four bytes) or wide (PAE).
set -eu
case $1 in
41) devices=pci.c ;;
*) devices=page.c ;;
esac
case $2 in
wide) pae=-DPAE ;;
*) pae= ;;
esac
cd "$(dirname "$0")"
exec cc -m32 -march=i686 -O1 -ffreestanding -fno-pic -fno-stack-protector -fcf-protection=none \
  -fno-asynchronous-unwind-tables -mno-sse -mno-mmx -nostdlib -static -Wall -Wextra -Werror \
  -Wl,--build-id=none -Wl,--no-warn-rwx-segments -Wl,-T,link.ld -DFORM="$1" $pae \
  head.S kernel.c program.c paging.c console.c virtio.c drivers.c "$devices" -o "$3"
