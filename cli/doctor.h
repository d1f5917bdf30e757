/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * What the parts of doctor share: findings, each about one thing, with what to do about it.
 */
#ifndef CLI_DOCTOR_H
#define CLI_DOCTOR_H

#include "command.h"

enum finding { FINDING_OK, FINDING_WARNING, FINDING_PROBLEM };

struct report {
    struct cli *cli;
    json_object *findings; /* array */
    unsigned counts[3];    /* by enum finding */
};

/* `about` is one word for programs too: "driver". remedy may be NULL. `format` makes the
 * sentence. Printed at once. */
__attribute__((format(printf, 5, 6))) void report_add(struct report *report,
                                                      enum finding finding, const char *about,
                                                      const char *remedy, const char *format,
                                                      ...);

/* doctor_daemon.c: everything that the daemon has to be asked about, and its ports. */
void doctor_check_daemon(struct report *report, const struct local_device *devices,
                         size_t n_devices);

#endif
