/* SPDX-License-Identifier: Apache-2.0
 *
 * What may be known of a port's packets because of the sockets on it.
 */
#include "control/nic_sockets.h"

#include <criterion/criterion.h>
#include <netinet/in.h>
#include <string.h>

#include "control/identity/owner.h"
#include "control/policy/policy.h"

struct bed {
    struct owner_table *owners;
    struct policy *policy;
    struct nic_sockets *s;
    uint32_t alice, bob;
    struct nb_cell cells[NIC_CELLS_OF_PORT];
    struct nb_owner owner;
};

static uint32_t owner_of(struct bed *b, uint32_t uid) {
    struct owner o = {.uid = uid, .pid = uid};
    uint32_t index;
    cr_assert_eq(owner_intern(b->owners, &o, &index), 0);
    return index;
}

static struct ipaddr here(uint8_t last) {
    return ipaddr_from_v4((const uint8_t[]){10, 0, 0, last});
}

static void begin(struct bed *b) {
    static const char text[] = "rules:\n"
                               "  - {name: not-hers, direction: in, user: 1001, action: drop}\n"
                               "  - {name: his, direction: in, user: 1002, action: allow}\n";
    static struct problems problems;
    const struct ipaddr v6 = {.b = {0xfd, [15] = 1}}, one = here(1), two = here(2);
    memset(b, 0, sizeof *b);
    cr_assert_eq(owner_table_create(16, &b->owners), 0);
    cr_assert_eq(policy_parse("test", text, strlen(text), 0, &b->policy, &problems), 0);
    b->s = nic_sockets_create(b->owners);
    b->alice = owner_of(b, 1001);
    b->bob = owner_of(b, 1002);
    cr_assert_eq(nic_sockets_policy(b->s, b->policy), 0);
    nic_sockets_address(b->s, &one, false);
    nic_sockets_address(b->s, &two, false);
    nic_sockets_address(b->s, &two, false);
    nic_sockets_address(b->s, &v6, false);
}

static void end(struct bed *b) {
    nic_sockets_destroy(b->s);
    policy_destroy(b->policy);
    owner_table_destroy(b->owners);
}

static struct nic_socket socket_of(uint32_t owner, uint8_t proto, struct ipaddr local) {
    return (struct nic_socket){.flow = {.local = local, .local_port = 80, .proto = proto}, .owner = owner};
}

static uint32_t cells(struct bed *b, uint8_t proto) {
    return nic_sockets_cells(b->s, proto, 80, b->cells, &b->owner);
}

Test(nic_sockets, a_port_is_its_only_owners) {
    struct bed b;
    begin(&b);
    struct nic_socket hers = socket_of(b.alice, IPPROTO_UDP, ipaddr_any()), his = hers, one = hers;
    cr_assert_eq(cells(&b, IPPROTO_UDP), 0);
    cr_assert_eq(nic_sockets_add(b.s, &hers), 0);
    cr_assert_eq(cells(&b, IPPROTO_UDP), 3);
    cr_assert(b.cells[0].owner_known && b.cells[0].owner->uid == 1001);
    cr_assert_eq(nic_sockets_world(b.s)->cell_count, 3);
    his.owner = b.bob;
    cr_assert_eq(nic_sockets_add(b.s, &his), 0);
    cr_assert_eq(cells(&b, IPPROTO_UDP), 0, "it could be his");
    nic_sockets_remove(b.s, &his);
    cr_assert_eq(cells(&b, IPPROTO_UDP), 3);
    one.flow.local = here(2);
    nic_sockets_remove(b.s, &hers);
    cr_assert_eq(nic_sockets_add(b.s, &one), 0);
    cr_assert_eq(cells(&b, IPPROTO_UDP), 1);
    cr_assert_eq(b.cells[0].cube.value.dst[15], 2);
    const struct ipaddr two = here(2);
    nic_sockets_address(b.s, &two, true);
    cr_assert_eq(cells(&b, IPPROTO_UDP), 0, "an address that is not ours any more");
    end(&b);
}

Test(nic_sockets, what_is_not_certain_has_no_cells) {
    struct bed b;
    begin(&b);
    struct nic_socket his = socket_of(b.bob, IPPROTO_UDP, ipaddr_any());
    cr_assert_eq(nic_sockets_add(b.s, &his), 0);
    cr_assert_eq(cells(&b, IPPROTO_UDP), 0, "no rule drops for his sake");
    nic_sockets_remove(b.s, &his);
    struct nic_socket there = socket_of(b.alice, IPPROTO_UDP, ipaddr_any());
    there.ifindex = 7;
    cr_assert_eq(nic_sockets_add(b.s, &there), 0);
    cr_assert_eq(cells(&b, IPPROTO_UDP), 0, "bound to an interface");
    nic_sockets_remove(b.s, &there);
    struct nic_socket connected = socket_of(b.alice, IPPROTO_UDP, here(1));
    connected.flow.remote = here(9);
    connected.flow.remote_port = 9;
    cr_assert_eq(nic_sockets_add(b.s, &connected), 0);
    cr_assert_eq(cells(&b, IPPROTO_UDP), 0, "the port is not all hers");
    end(&b);
}

Test(nic_sockets, of_streams_only_the_first_packet_is_the_listeners) {
    struct bed b;
    begin(&b);
    struct nic_socket bound = socket_of(b.alice, IPPROTO_TCP, ipaddr_any()), listener = bound;
    listener.listens = true;
    cr_assert_eq(nic_sockets_add(b.s, &listener), 0);
    cr_assert_eq(cells(&b, IPPROTO_TCP), 3);
    cr_assert_eq(b.cells[0].cube.mask.tcp_flags, 0x12);
    cr_assert_eq(b.cells[0].cube.value.tcp_flags, 0x02);
    cr_assert_eq(nic_sockets_add(b.s, &bound), 0);
    cr_assert_eq(cells(&b, IPPROTO_TCP), 0);
    end(&b);
}
