/* SPDX-License-Identifier: Apache-2.0
 *
 * Embeds the compiled claim programs. CLAIMS_OBJECT is the path of the BPF object, given by the build.
 */
    .section .rodata
    .balign 16
    .global nb_claims_object
    .hidden nb_claims_object
    .global nb_claims_object_end
    .hidden nb_claims_object_end
nb_claims_object:
    .incbin CLAIMS_OBJECT
nb_claims_object_end:
    .byte 0
    .section .note.GNU-stack, "", @progbits
