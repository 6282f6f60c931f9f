/* SPDX-License-Identifier: Apache-2.0
 *
 * Answers of a usherd that does not exist, for tests of what is shown. Tests only.
 */
#ifndef USHER_CONTROL_USHERCTL_SAMPLE_H
#define USHER_CONTROL_USHERCTL_SAMPLE_H

#include "control/usherctl/ctl.h"
#include "usher/control/v1/qos.pb-c.h"

#define SAMPLE_NOW 1700000000000000000u /* unix ns */

/* Each fills static memory; the same at every call. */
const PB(GetInfoResponse) *sample_info(void);
const PB(ListWorkersResponse) *sample_workers(void);
const PB(ListPortsResponse) *sample_ports(void);
const PB(ListSessionsResponse) *sample_sessions(void);
const PB(ListSocketsResponse) *sample_sockets(void);
const PB(ListRefusalsResponse) *sample_refusals(void);
const PB(CountersSnapshot) *sample_drops(void);
/* `later`: a second afterwards */
const PB(ListClassesResponse) *sample_classes(bool later);
const PB(DiffPolicyResponse) *sample_diff(void);
const PB(ExplainPolicyResponse) *sample_explain(void);
const PB(PolicyHistoryResponse) *sample_history(void);
const PB(ListRulesResponse) *sample_rules(void);

#endif
