/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * A local device whose connection is dead gets new sockets, so that what waits on it goes on;
 * one whose export has grown gets the new size. One device at a time, blocking within the time
 * limits of the calls; which device, and when, is for restore and monitor to say.
 */
#ifndef CLI_REATTACH_H
#define CLI_REATTACH_H

#include "command.h"

/* What the daemon says about the mapping of a device; a copy, so that it can outlive the
 * answer. */
struct mapping_facts {
    char cookie[NR_ID_MAX + 1];
    char export_name[NR_NAME_MAX + 1];
    uint64_t size_bytes; /* of the export, now */
    nr_map_state state;
    unsigned connections, connected;
    unsigned timeout_s, dead_timeout_s;
    bool readonly;
};

void mapping_facts_take(struct mapping_facts *facts, const nr_export *x,
                        const nr_mapping *mapping);

/* Are connections missing that the device should have? */
bool mapping_facts_are_short(const struct mapping_facts *facts);

/* The size of the device for an export of this size. */
uint64_t device_size_for(const struct local_device *device, uint64_t export_bytes);

/* Reconnect. With `cut` the daemon ends the connections that it still sees: they are dead on
 * this side. Its refusal with the code "ESTATE" means: not yet, try again. The code "GONE"
 * means that the device is no longer that mapping's. */
int reattach(struct cli *cli, const struct local_device *device,
             const struct mapping_facts *facts, bool cut, struct failure *why);

/* Give the device the size of its export, which has grown. */
int reattach_size(struct cli *cli, const struct local_device *device,
                  const struct mapping_facts *facts, struct failure *why);

#endif
