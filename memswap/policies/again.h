/*
 * Policies: requests that are made until there is a budget for them
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MEMSWAP_AGAIN_H
#define MEMSWAP_AGAIN_H

#include <errno.h>
#include <stdint.h>

/*
 * What the request returns in the end.  -EAGAIN says nothing but that there
 * were too many of late: it is no answer, as to whether there is a block for
 * instance.  Each refusal takes a millisecond, after which there is a budget
 * for a hundred, so the next one mostly is the last.
 */
#define again(request)                                                      \
    ({                                                                      \
        int64_t ret_;                                                       \
                                                                            \
        do {                                                                \
            ret_ = (request);                                               \
        } while (ret_ == -EAGAIN);                                          \
        ret_;                                                               \
    })

#endif /* MEMSWAP_AGAIN_H */
