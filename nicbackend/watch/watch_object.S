/* SPDX-License-Identifier: Apache-2.0
 *
 * Embeds the compiled watch programs. WATCH_OBJECT is the path of the BPF object, given by the build.
 */
    .section .rodata
    .balign 16
    .global nb_watch_object
    .hidden nb_watch_object
    .global nb_watch_object_end
    .hidden nb_watch_object_end
nb_watch_object:
    .incbin WATCH_OBJECT
nb_watch_object_end:
    .byte 0
    .section .note.GNU-stack, "", @progbits
