/* SPDX-License-Identifier: Apache-2.0
 *
 * Embeds the compiled BPF objects. CLAIMS_OBJECT and RULES_OBJECT are their paths, given by the build.
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
    .balign 16
    .global nb_rules_object
    .hidden nb_rules_object
    .global nb_rules_object_end
    .hidden nb_rules_object_end
nb_rules_object:
    .incbin RULES_OBJECT
nb_rules_object_end:
    .byte 0
    .section .note.GNU-stack, "", @progbits
