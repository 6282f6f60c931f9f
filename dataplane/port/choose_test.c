/* SPDX-License-Identifier: Apache-2.0
 *
 * The choice of a kind, as far as the loopback interface can show it; conformance_e2e_test.c asks on veth.
 */
#include <criterion/criterion.h>
#include <errno.h>

#include "dataplane/port/port.h"

Test(choose, wishes_are_obeyed) {
    struct port_choice c;
    struct port_error err = {""};
    cr_assert_eq(port_choose("lo", "packet", &c, &err), 0);
    cr_assert(strcmp(c.kind, "packet") == 0 && !c.large_frames);
    cr_assert_eq(port_choose("lo", "xdp", &c, &err), 0);
    cr_assert(strcmp(c.kind, "xdp") == 0 && c.allow_native && c.allow_zero_copy && !c.allow_generic);
    cr_assert_eq(port_choose("lo", "xdp-generic", &c, &err), 0);
    cr_assert(c.allow_generic && !c.allow_native && !c.large_frames);
    cr_assert_eq(port_choose("not-there-yet", "tap", &c, &err), 0);
    cr_assert_str_eq(c.kind, "tap");
}

Test(choose, automatic_says_why) {
    struct port_choice c;
    struct port_error err = {""};
    cr_assert_eq(port_choose("lo", NULL, &c, &err), 0);
    cr_assert_str_eq(c.kind, "packet");
    cr_assert(strstr(c.why, "because") != NULL);
}

Test(choose, nonsense_is_refused_with_a_sentence) {
    struct port_choice c;
    struct port_error err = {""};
    cr_assert_eq(port_choose("lo", "carrier-pigeon", &c, &err), -EINVAL);
    cr_assert(strstr(err.text, "carrier-pigeon") != NULL && strstr(err.text, "packet") != NULL);
    cr_assert_eq(port_choose("nonesuch", "auto", &c, &err), -ENODEV);
    cr_assert(strstr(err.text, "nonesuch") != NULL);
    cr_assert_eq(port_choose("a-name-that-is-too-long", "auto", &c, &err), -ENODEV);
    cr_assert_eq(port_choose(NULL, "auto", &c, &err), -ENODEV);
}
