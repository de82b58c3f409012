/* The first instructions of the Guest, and its ways into and out of C. FORM is 26, 31 or 41; PAE for tables of eight bytes.
 *
 * Entered at a physical address, with esi at the boot parameters, as Linux is: memory that should be zero is cleared, the
 * parameters are moved away, the sub-architecture is looked up, and the Host is told. 2.6.32 has tables from its Host by then;
 * the later kernels bring some of their own. */

#define HIGH 0xc0000000
#define PHYSICAL(symbol) ((symbol) - HIGH)
#define CALL_INIT 1
#define CALL_SHUTDOWN 2
#define CALL_NEW_PGTABLE 4
#define CALL_SEND_INTERRUPTS 19

/* Where the parameters have what is looked at. */
#define VERSION 0x206
#define LOAD_FLAGS 0x211
#define KEEP_SEGMENTS 0x40
#define COMMAND_LINE 0x228
#define SUBARCH 0x23c

#if FORM == 26
#define TRAP .byte 0x0f, 0x01, 0xc1
#else
#define TRAP int $0x1f
#endif

	.section .head, "ax"
	.global start
start:
	/* Whoever does not say so has us load segments, which nobody may here. */
	testb $KEEP_SEGMENTS, LOAD_FLAGS(%esi)
	jz wrong
	cld
	xorl %eax, %eax
	movl $PHYSICAL(bss_start), %edi
	movl $PHYSICAL(bss_end), %ecx
	subl %edi, %ecx
	shrl $2, %ecx
	rep stosl
	movl $PHYSICAL(boot_params), %edi
	movl $1024, %ecx
	rep movsl
	movl PHYSICAL(boot_params) + COMMAND_LINE, %esi
	movl $PHYSICAL(command_line), %edi
	movl $512, %ecx
	rep movsl

#if FORM != 26
	/* The first 64 MiB, at 0 and at their high address. */
	movl $PHYSICAL(first_tables), %edi
	movl $3, %eax
#ifdef PAE
	movl $PHYSICAL(first_directory), %edx
	movl $32, %ebp
1:	leal 0x67(%edi), %ecx
	movl %ecx, (%edx)
	addl $8, %edx
	movl $512, %ecx
2:	stosl
	movl $0, (%edi)
	addl $4, %edi
#else
	movl $PHYSICAL(first_directory), %edx
	movl $16, %ebp
1:	leal 0x67(%edi), %ecx
	movl %ecx, (%edx)
	movl %ecx, HIGH >> 20(%edx)
	addl $4, %edx
	movl $1024, %ecx
2:	stosl
#endif
	addl $0x1000, %eax
	loop 2b
	decl %ebp
	jnz 1b
#ifdef PAE
	movl $PHYSICAL(first_directory) + 1, PHYSICAL(first_pointers)
	movl $PHYSICAL(first_directory) + 1, PHYSICAL(first_pointers) + 24
#endif
#endif

	cmpw $0x207, PHYSICAL(boot_params) + VERSION
	jb wrong
	cmpl $1, PHYSICAL(boot_params) + SUBARCH
	jne wrong
	movl $CALL_INIT, %eax
	movl $PHYSICAL(lguest_data), %ebx
	TRAP
#if FORM != 26
	movl $CALL_NEW_PGTABLE, %eax
#ifdef PAE
	movl $PHYSICAL(first_pointers), %ebx
#else
	movl $PHYSICAL(first_directory), %ebx
#endif
	TRAP
#endif
	movl $stack_end, %esp
	/* Jumps are relative: this one is to the high address. */
	jmp kernel + HIGH
wrong:
	ud2

	.text
/* Interrupts on. Before 4.1 the test for something pending was against nothing, so that it never was. */
	.global irq_enable
irq_enable:
	movl $0x200, lguest_data
#if FORM == 41
	testl $0x200, lguest_data + 20
#else
	testl $0, lguest_data + 20
#endif
	jnz send_interrupts
	ret
send_interrupts:
	pushl %eax
	movl $CALL_SEND_INTERRUPTS, %eax
	TRAP
	popl %eax
	ret

/* A return whose flags the processor does not take: what they say of interrupts goes to the Host's word first, all of them.
 * No interrupt may come between that and the return. */
	.global leave_trap, noirq_start, noirq_end, noirq_iret
leave_trap:
#if FORM == 41
	pushl 8(%esp)
	popl %ss:lguest_data
noirq_iret:
	iret
#else
	pushl %eax
	movl 12(%esp), %eax
noirq_start:
	movl %eax, %ss:lguest_data
	popl %eax
	iret
noirq_end:
#endif

/* One entry a vector, 16 bytes each. Those with an error code have it on the stack already. */
	.global entries
	.balign 16
entries:
	vector = 0
	.rept 256
	.balign 16
	.if (vector == 8) || ((vector >= 10) && (vector <= 14)) || (vector == 17)
	.else
	pushl $0
	.endif
	pushl $vector
	jmp common
	vector = vector + 1
	.endr
common:
	pushl %gs
	pushl %fs
	pushl %es
	pushl %ds
	pushl %eax
	pushl %ebp
	pushl %edi
	pushl %esi
	pushl %edx
	pushl %ecx
	pushl %ebx
	movl $0x7b, %eax
	movl %eax, %ds
	movl %eax, %es
	movl $0xd8, %eax
	movl %eax, %fs
	movl $0xe0, %eax
	movl %eax, %gs
	cld
	pushl %esp
	call trap
	addl $4, %esp
	popl %ebx
	popl %ecx
	popl %edx
	popl %esi
	popl %edi
	popl %ebp
	popl %eax
	popl %ds
	popl %es
	popl %fs
	popl %gs
	addl $8, %esp
	jmp leave_trap

/* A process, two of which run this in spaces of their own, in turns. What they have in common is nothing but their code: each has a mark
 * in its memory and the same one in its thread's storage, counts its turns on a page that is written only after a fault, and
 * finds that all of it is still its own. */
	.global user_start, user_end
	.balign 4096
user_start:
	movl 0x0804e000, %edi
	/* Storage of a thread's own, behind a negative offset as C libraries have it. */
	movl $243, %eax
	movl $0x08050000, %ebx
	int $0x80
	movl %eax, %gs
	fninit
	fldpi
	movl $500, %esi
1:	movl $20, %eax
	int $0x80
	cmpl $1, %eax
	jne 9f
	incl 0x08049000
	movl $158, %eax
	int $0x80
	cmpl %edi, 0x0804e000
	jne 9f
	cmpl %edi, %gs:-4
	jne 9f
	decl %esi
	jnz 1b
	cmpl $500, 0x08049000
	jne 9f
	movl $4, %eax
	movl $0x08048000 + (greeting - user_start), %ecx
	movl $greeting_end - greeting, %edx
	int $0x80
	xorl %ebx, %ebx
	movl $1, %eax
	int $0x80
9:	movl $1, %ebx
	movl $1, %eax
	int $0x80
greeting:
	.ascii "a process says hello\n"
greeting_end:
	.balign 4096
user_end:

	.section .note.GNU-stack, "", @progbits
