/*
 * memswap: what tests of policies share
 *
 * The unit tests' policies are there: "puppet" does what its options say,
 * publishes the result, and counts what it is told.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MEMSWAP_POLICY_UTIL_H
#define MEMSWAP_POLICY_UTIL_H

#include "memswap-util.h"
#include "tests/qtest/memswap-policies/memswap-policies.h"

#define SO(name) MEMSWAP_POLICIES "/memswap-policy-" name ".so"

#define MACHINE "-nodefaults -m 128M "
#define ON MACHINE "-memswap limit=64M,readahead=0 "
#define OBJECT "-object memswap-policy,id="

#define ADD "{ 'execute': 'memswap-policy-add', 'arguments': "
#define SET "{ 'execute': 'memswap-policy-set', 'arguments': "
#define REMOVE "{ 'execute': 'memswap-policy-remove', 'arguments': "
#define OBJECT_ADD "{ 'execute': 'object-add', 'arguments': " \
                   "{ 'qom-type': 'memswap-policy', "
#define OBJECT_DEL "{ 'execute': 'object-del', 'arguments': "

/* What there is as long as there is no other reclaimer. */
#define DEFAULT "default:generation"

/* Compare with "id:name:error " of each policy. */
void expect_policies(QTestState *qts, const char *expected);
/* The default one begins a moment after another was given up. */
void await_policies(QTestState *qts, const char *expected);
/* NULL if there is none; to be unreferenced. */
QDict *policy(QTestState *qts, const char *id);
uint64_t figure(QTestState *qts, const char *id, const char *name);
/* 0 if it isn't published. */
uint64_t counter(QTestState *qts, const char *id, const char *name);
/* A policy hears of things a moment after they happened. */
void expect_counter(QTestState *qts, const char *id, const char *name,
                    uint64_t value);
/* The same of a figure of the engine's, which only grows. */
void expect_more(QTestState *qts, const char *id, const char *name,
                 uint64_t than);
/* Have a puppet ask for something; what it got. */
uint64_t ask(QTestState *qts, const char *id, const char *request,
             const char *value);

#endif /* MEMSWAP_POLICY_UTIL_H */
