/*
 * Policies for tests: shared objects that lie beside the test program
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TEST_PUPPETS_H
#define TEST_PUPPETS_H

#include "harness.h"
#include "memswap/policies.h"

/* The file of a policy under policies/; free it. */
char *puppet_path(const char *name);
/* Load one; 0, or what memswap_policy_add() says, and why. */
int puppet_try(Harness *h, const char *id, const char *name, char **error);
void puppet_add(Harness *h, const char *id, const char *name);
void builtin_add(Harness *h, const char *id, const char *name);
/* What runs it, or NULL; stays valid while the test doesn't remove it. */
MemswapPolicyHost *puppet_host(Harness *h, const char *id);
/* Wait until it has handled all that it was told. */
void puppet_settle(Harness *h, const char *id);
/* Wait until it is in its own code. */
void puppet_wait_busy(Harness *h, const char *id);
/* Settle, then look. */
MemswapPolicyStatus puppet_status(Harness *h, const char *id);
uint64_t puppet_counter(Harness *h, const char *id, const char *name);
/* Have the puppet ask for something; the result. */
int64_t puppet_ask(Harness *h, const char *id, const char *request,
                   const char *format, ...) G_GNUC_PRINTF(4, 5);
/* From now on each policy may ask for so much in a second. */
void puppet_budget(Harness *h, int64_t requests);
/* A variable in the puppet's object. */
void *puppet_symbol(const char *name, const char *symbol);

#endif /* TEST_PUPPETS_H */
