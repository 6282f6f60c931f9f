/* SPDX-License-Identifier: Apache-2.0
 *
 * Embeds the compiled hooks on kernel sockets. COVER_OBJECT is the path of the BPF object, given by the build.
 */
    .section .rodata
    .balign 16
    .global nb_cover_object
    .hidden nb_cover_object
    .global nb_cover_object_end
    .hidden nb_cover_object_end
nb_cover_object:
    .incbin COVER_OBJECT
nb_cover_object_end:
    .byte 0
    .section .note.GNU-stack, "", @progbits
