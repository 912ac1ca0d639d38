/*
 * memswap engine: what tests may do and its users may not
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MEMSWAP_ENGINE_PRIVATE_H
#define MEMSWAP_ENGINE_PRIVATE_H

#include "memswap/engine.h"
#include "store.h"

/**
 * memswap_engine_new_with_store: memswap_engine_new() with another store
 * @store: owned by the engine from success on; NULL for the pool
 */
int memswap_engine_new_with_store(const MemswapConfig *config,
                                  const MemswapHost *host, void *opaque,
                                  MemswapStore *store,
                                  MemswapEngine **engine, char **error);

#endif /* MEMSWAP_ENGINE_PRIVATE_H */
