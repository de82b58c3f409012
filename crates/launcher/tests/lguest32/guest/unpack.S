/* What stands before a kernel in a bzImage, and does what Linux' does: keeps its segments if it is told to, borrows a stack in
 * the parameters, clears its flags, moves itself out of the way from behind, puts the kernel where it belongs, and jumps there.
 * "Packed" here is a count of words and those words. Runs anywhere. */

#define SCRATCH 0x1e4
#define LOAD_FLAGS 0x211
#define KEEP_SEGMENTS 0x40
#define ALIGNMENT 0x230
#define KERNEL 0x1000000
#define ASIDE 0x1800000

	.text
	.global start
start:
	cld
	testb $KEEP_SEGMENTS, LOAD_FLAGS(%esi)
	jnz 1f
	cli
	movl $0x18, %eax
	movl %eax, %ds
	movl %eax, %es
	movl %eax, %ss
1:	leal SCRATCH + 4(%esi), %esp
	call 2f
2:	popl %ebp
	subl $2b - start, %ebp
	/* It was put below the first multiple of the alignment that it is told of. */
	movl ALIGNMENT(%esi), %eax
	cmpl $KERNEL, %eax
	jne wrong
	pushl $0
	popfl
	pushl %esi
	leal end - 4 - start(%ebp), %esi
	movl $ASIDE + end - 4 - start, %edi
	movl $end - start, %ecx
	shrl $2, %ecx
	addl packed - start(%ebp), %ecx
	leal -1(%ecx), %eax
	subl $(end - start) / 4 - 1, %eax
	leal (%esi, %eax, 4), %esi
	leal (%edi, %eax, 4), %edi
	std
	rep movsl
	cld
	popl %esi
	movl $ASIDE + moved - start, %eax
	jmp *%eax
moved:
	pushl %esi
	movl $ASIDE + end - start, %esi
	movl $KERNEL, %edi
	movl ASIDE + packed - start, %ecx
	rep movsl
	popl %esi
	movl $KERNEL, %eax
	xorl %ebx, %ebx
	jmp *%eax
wrong:
	ud2
	.balign 4
packed:
	.long 0
end:
	.section .note.GNU-stack, "", @progbits
