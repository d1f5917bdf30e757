/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * doctor: looks at everything that has to be right for exports to be served and mapped, and
 * says what is not and what to do. Changes nothing. Here: this host; doctor_daemon.c: the
 * daemon.
 */
#include "device.h"
#include "doctor.h"
#include "output.h"

#include <glib.h>
#include <inttypes.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#define CAP_SYS_ADMIN_BIT 21

static const struct {
    const char *word;
    enum colour colour;
} findings[] = {
    [FINDING_OK] = {"ok", COLOUR_GOOD},
    [FINDING_WARNING] = {"warning", COLOUR_BUSY},
    [FINDING_PROBLEM] = {"problem", COLOUR_BAD},
};

void report_add(struct report *report, enum finding finding, const char *about,
                const char *remedy, const char *format, ...)
{
    json_object *object = json_object_new_object();
    g_autofree char *text = NULL;
    va_list args;

    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    clean_text(text);
    report->counts[finding]++;
    if (!report->cli->json) {
        paint(report->cli->out, findings[finding].colour, "%-8s", findings[finding].word);
        fprintf(report->cli->out, "%-11s%s\n", about, text);
        if (remedy != NULL)
            fprintf(report->cli->out, "%-19s-> %s\n", "", remedy);
    }
    json_put_text(object, "about", about);
    json_put_text(object, "finding", findings[finding].word);
    json_put_text(object, "message", text);
    json_put_optional(object, "remedy", remedy);
    json_object_array_add(report->findings, object);
}

/* ---- This host ---- */

static void check_driver(struct report *report)
{
    switch (device_driver_state()) {
    case DRIVER_READY:
        report_add(report, FINDING_OK, "driver", NULL, "the kernel has the nbd driver");
        return;
    case DRIVER_LOADABLE:
        report_add(report, FINDING_OK, "driver", NULL,
                   "the kernel module nbd is not loaded; the first 'map' loads it");
        return;
    case DRIVER_BLACKLISTED:
        report_add(report, FINDING_WARNING, "driver",
                   "take it out of modprobe.d, or load it: modprobe nbd nbds_max=0",
                   "the kernel module nbd is blacklisted: exports cannot be mapped here");
        return;
    case DRIVER_OLD:
        report_add(
            report, FINDING_WARNING, "driver", "use a kernel of version 4.12 or later",
            "the kernel's nbd driver has no netlink interface: exports cannot be mapped "
            "here");
        return;
    case DRIVER_MISSING:
        report_add(
            report, FINDING_WARNING, "driver",
            "install the modules of the running kernel; in a container, load nbd "
            "outside",
            "this host's kernel has no nbd driver: exports can be served, but not mapped "
            "here");
        return;
    }
}

/* With nbds_max devices made beforehand, udev may open one while it is being mapped. */
static void check_nbds_max(struct report *report)
{
    g_autofree char *text = NULL;
    guint64 number;

    if (!g_file_get_contents("/sys/module/nbd/parameters/nbds_max", &text, NULL, NULL) ||
        !g_ascii_string_to_unsigned(g_strstrip(text), 10, 0, G_MAXUINT64, &number, NULL))
        return;
    report_add(report, FINDING_OK, "devices", NULL,
               "%" G_GUINT64_FORMAT
               " devices were made when the driver was loaded (nbds_max); "
               "'map' makes more when all are in use",
               number);
}

static bool may_administer(void)
{
    g_autofree char *status = NULL;
    const char *line;

    if (!g_file_get_contents("/proc/self/status", &status, NULL, NULL))
        return geteuid() == 0;
    line = strstr(status, "\nCapEff:");
    if (line == NULL)
        return geteuid() == 0;
    return (g_ascii_strtoull(line + strlen("\nCapEff:\t"), NULL, 16) >> CAP_SYS_ADMIN_BIT) & 1;
}

static void check_permission(struct report *report)
{
    if (may_administer())
        report_add(report, FINDING_OK, "permission", NULL, "map and unmap are permitted");
    else
        report_add(report, FINDING_WARNING, "permission", "for these, use sudo",
                   "map, unmap and restore need root (CAP_SYS_ADMIN), which you have not");
}

static void say_sum(struct report *report)
{
    unsigned problems = report->counts[FINDING_PROBLEM];
    unsigned warnings = report->counts[FINDING_WARNING];

    if (problems == 0 && warnings == 0)
        cli_say(report->cli, "everything is in order");
    else
        cli_say(report->cli, "%u %s, %u %s", problems, problems == 1 ? "problem" : "problems",
                warnings, warnings == 1 ? "warning" : "warnings");
    json_object_object_add(cli_answer(report->cli), "findings", report->findings);
    json_put_number(cli_answer(report->cli), "problems", problems);
    json_put_number(cli_answer(report->cli), "warnings", warnings);
}

int cmd_doctor(struct cli *cli, struct failure *why)
{
    struct report report = {.cli = cli, .findings = json_object_new_array()};
    g_autofree struct local_device *devices = NULL;
    size_t n = sysfs_list(&cli->sysfs, &devices);

    (void)why; /* the findings say it */
    cli->timeout_s = 10;
    check_driver(&report);
    check_nbds_max(&report);
    check_permission(&report);
    doctor_check_daemon(&report, devices, n);
    say_sum(&report);
    return report.counts[FINDING_PROBLEM] > 0 ? STATUS_FAILED : STATUS_DONE;
}
