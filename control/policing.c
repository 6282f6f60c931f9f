/* SPDX-License-Identifier: Apache-2.0
 *
 * See policing.h.
 */
#include "control/policing.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "control/log.h"
#include "control/policy/install.h"
#include "control/usherd.h"

int policing_begin(struct usherd *u, char *err, size_t err_size) {
    static struct problems problems;
    if (u->cfg.policy[0] == '\0')
        return 0;
    problems.count = 0;
    int error = policy_load(u->cfg.policy, &u->policy, &problems);
    for (uint32_t i = 1; i < problems.count && i < PROBLEM_MAX; i++)
        log_error("policy", "%s", problems.text[i]);
    if (error == 0)
        error = policy_install(u->rt, u->policy, NULL, 0);
    if (error != 0) {
        (void)snprintf(err, err_size, "%s",
                       problems.count > 0 ? problems.text[0]
                                          : "the policy cannot be installed; has it more rules than memory?");
        policing_end(u);
        return error;
    }
    log_info("policy", "%s is in force: %u rules", u->cfg.policy, policy_rules(u->policy)->rule_count);
    return 0;
}

void policing_end(struct usherd *u) {
    policy_destroy(u->policy);
    u->policy = NULL;
}

int policing_owner(void *usherd, uint32_t index, const struct owner *owner) {
    struct usherd *u = usherd;
    return u->policy == NULL ? 0 : policy_owner_add(u->rt, u->policy, index, owner);
}

int policing_again(void *usherd) {
    struct usherd *u = usherd;
    return u->policy == NULL ? 0 : policy_install(u->rt, u->policy, u->owners, 4 * u->cfg.sessions.max + 1);
}
