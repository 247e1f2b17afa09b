# SPDX-License-Identifier: MIT
# A boot sector to test the firmware's driver: reads 64 sectors from the second on, writes them at
# sector 1000, and prints the text at their beginning on the first serial port. It accesses the disk
# through the firmware (INT 13h, extended read and write).
  .code16
  .global _start
_start:
  cli
  xorw %ax, %ax
  movw %ax, %ds
  movw %ax, %ss
  movw $0x7c00, %sp
  sti
  cld
  movb %dl, drive

  movb $0x42, %ah
  movw $read_packet, %si
  int $0x13
  movw $read_failed, %si
  jc finish
  movw $0x4300, %ax
  movb drive, %dl
  movw $write_packet, %si
  int $0x13
  movw $write_failed, %si
  jc finish

  movw $told, %si
  call print
  movw $0x1000, %ax
  movw %ax, %ds
  xorw %si, %si
finish:
  call print
  xorw %ax, %ax
  movw %ax, %ds
  movw $line_end, %si
  call print
halt:
  hlt
  jmp halt

# The text at ds:si, up to its zero, to the serial port.
print:
  movw $0x3fd, %dx
wait_for_room:
  inb %dx, %al
  testb $0x20, %al
  jz wait_for_room
  lodsb
  testb %al, %al
  jz printed
  movw $0x3f8, %dx
  outb %al, %dx
  jmp print
printed:
  ret

drive: .byte 0
told: .asciz "\n@guestio read "
read_failed: .asciz "\n@guestio fail the firmware cannot read"
write_failed: .asciz "\n@guestio fail the firmware cannot write"
line_end: .asciz "\n"

# Size, sectors, place in memory (offset, segment), first sector.
  .balign 4
read_packet:
  .byte 16, 0
  .word 64, 0, 0x1000
  .quad 1
write_packet:
  .byte 16, 0
  .word 64, 0, 0x1000
  .quad 1000

  .org 510
  .word 0xaa55
