/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The part of doctor that asks the daemon: is it reached, is it of our version, do its ports
 * answer, which handlers has it, are exports, mappings and the state file well. When it is not
 * reached: who has its ports.
 */
#include "answer.h"
#include "doctor.h"
#include "greeting.h"
#include "listing.h"
#include "net.h"

#include <glib.h>
#include <string.h>
#include <unistd.h>

#define NBD_PORT 24111
#define TRY_MS 5000
#define ROWS_MAX 20 /* of one kind; the rest is counted */

/* ---- When there is no daemon ---- */

/* Our ports, taken by something else, are a reason for a daemon not to start. */
static void check_foreign_port(struct report *report, uint16_t port)
{
    struct address address = {.host = "localhost", .port = port};
    struct failure ignored;
    int fd = net_connect(&address, NULL, deadline_in_ms(TRY_MS), &ignored);
    g_autofree char *remedy = NULL;

    if (fd < 0)
        return;
    close(fd);
    remedy = g_strdup_printf("'ss -tlnp sport = :%u' names it; stop it, or set another port "
                             "in nbd-runner.conf",
                             port);
    report_add(report, FINDING_WARNING, "ports", remedy,
               "something listens on port %u of this host; if it is no nbd-runner, none can "
               "start",
               port);
}

static void report_unreached(struct report *report, const struct failure *why)
{
    const char *remedy =
        "start it: systemctl start nbd-runner; 'host' and '--dir' name another";

    if (why->status == STATUS_PERMISSION)
        remedy = "be root or the user that it runs as, or have your address put into its "
                 "rpc_allow";
    else if (why->status == STATUS_NO_ANSWER)
        remedy = "look at its log: journalctl -u nbd-runner; is the network filtered?";
    report_add(report, FINDING_PROBLEM, "daemon", remedy, "%s", why->message);
    if (why->status == STATUS_UNREACHABLE) {
        check_foreign_port(report, CONTROL_PORT);
        check_foreign_port(report, NBD_PORT);
    }
}

/* ---- The daemon itself ---- */

static void check_version(struct report *report, const nr_status *status)
{
    if (strcmp(status->server_version, PACKAGE_VERSION) == 0)
        report_add(report, FINDING_OK, "daemon", NULL, "nbd-runner %s runs as process %u",
                   status->server_version, status->pid);
    else
        report_add(report, FINDING_WARNING, "daemon",
                   "after an update restart it: systemctl restart nbd-runner",
                   "the daemon is of version %s, this nbd-cli of %s", status->server_version,
                   PACKAGE_VERSION);
}

static void check_state(struct report *report, const nr_status *status)
{
    if (strcmp(status->state, "saved") == 0)
        report_add(report, FINDING_OK, "state", NULL, "%s has everything", status->state_file);
    else if (strcmp(status->state, "unsaved") == 0)
        report_add(report, FINDING_PROBLEM, "state",
                   "make room or repair the disk; the daemon tries again by itself",
                   "%s is not up to date: %s", status->state_file, status->state_error);
    else if (strcmp(status->state, "degraded") == 0)
        report_add(report, FINDING_PROBLEM, "state",
                   "the damaged files are kept beside it; restore exports from a copy, or "
                   "create them again with 'export add'",
                   "the saved state could not be read: %s", status->state_error);
    else
        report_add(report, FINDING_OK, "state", NULL, "this daemon keeps no state");
}

static void report_handler(struct report *report, const nr_handler *row)
{
    if (*row->problem != '\0')
        report_add(report, FINDING_PROBLEM, "handlers",
                   "install what it needs, or its version for this daemon; then restart the "
                   "daemon",
                   "%s is not loaded: %s", row->file, row->problem);
    else
        report_add(report, FINDING_OK, "handlers", NULL, "%s (%s)", row->name, row->file);
}

static void check_handlers(struct report *report)
{
    nr_handlers_res res;
    struct failure why;
    const nr_handlers *handlers = &res.nr_handlers_res_u.handlers;

    if (client_call(report->cli->client, NR_HANDLERS, NULL, &res, &why) != 0) {
        report_add(report, FINDING_WARNING, "handlers", NULL, "not known: %s", why.message);
        return;
    }
    for (u_int i = 0; i < handlers->rows.rows_len; i++)
        report_handler(report, &handlers->rows.rows_val[i]);
    if (handlers->rows.rows_len == 0)
        report_add(report, FINDING_PROBLEM, "handlers",
                   "install nbd-runner's handlers, or set handler_dir",
                   "the daemon has no handler at all, so it can serve nothing");
    client_free(NR_HANDLERS, &res);
}

/* ---- The NBD port ---- */

static void check_nbd_port(struct report *report, const nr_endpoint *endpoint)
{
    struct greeting greeting;

    greeting_look(report->cli->client, endpoint, TRY_MS, &greeting);
    switch (greeting.answer) {
    case ANSWER_YES:
        report_add(report, FINDING_OK, "ports", NULL, "NBD answers at %s", greeting.address);
        return;
    case ANSWER_NO:
        report_add(report, FINDING_PROBLEM, "ports",
                   "is a firewall between, or the limit of connections reached? The daemon's "
                   "log tells",
                   "no NBD at %s: %s", greeting.address, greeting.message);
        return;
    case ANSWER_NOT_ADMITTED:
        report_add(report, FINDING_WARNING, "ports",
                   "have this address put into nbd_allow, if clients are to run here",
                   "whether NBD answers at %s cannot be seen from here: %s", greeting.address,
                   greeting.message);
        return;
    case ANSWER_NOT_REACHABLE:
        return; /* not meant for us */
    }
}

static void check_ports(struct report *report, const nr_status *status)
{
    for (u_int i = 0; i < status->nbd_endpoints.nbd_endpoints_len; i++)
        check_nbd_port(report, &status->nbd_endpoints.nbd_endpoints_val[i]);
    if (status->nbd_endpoints.nbd_endpoints_len == 0)
        report_add(report, FINDING_PROBLEM, "ports", "restart the daemon; its log tells why",
                   "the daemon listens nowhere for NBD clients");
}

/* ---- Exports and mappings ---- */

static void check_exports(struct report *report, const struct listing *listing)
{
    unsigned faulted = 0;

    for (guint i = 0; i < listing->exports->len; i++) {
        const nr_export *x = g_ptr_array_index(listing->exports, i);

        if (x->state != NR_X_FAULTED)
            continue;
        if (faulted++ < ROWS_MAX)
            report_add(report, FINDING_PROBLEM, "exports",
                       "once that is repaired it comes back by itself when a client connects",
                       "export \"%s\" (%s %s) is faulted: %s", x->name, x->store.handler,
                       x->store.target, x->fault.message);
    }
    if (faulted > ROWS_MAX)
        report_add(report, FINDING_PROBLEM, "exports", NULL, "%u more are faulted",
                   faulted - ROWS_MAX);
    if (faulted == 0)
        report_add(report, FINDING_OK, "exports", NULL, "%u, none is faulted",
                   listing->exports->len);
}

static unsigned report_dead(struct report *report, const struct listing *listing)
{
    unsigned dead = 0;

    for (guint i = 0; i < listing->exports->len; i++) {
        const nr_export *x = g_ptr_array_index(listing->exports, i);

        for (u_int j = 0; j < x->mappings.mappings_len; j++) {
            const nr_mapping *mapping = &x->mappings.mappings_val[j];

            if (mapping->state == NR_M_DEAD && dead++ < ROWS_MAX)
                report_add(report, FINDING_PROBLEM, "mappings",
                           "on that host: 'nbd-cli restore'; or forget it there: 'nbd-cli "
                           "BACKSTORE unmap TARGET'",
                           "%s on host \"%s\", export \"%s\", has no connection",
                           mapping->device, mapping->client, x->name);
        }
    }
    return dead;
}

/* Devices of this host that say they are ours, while the daemon does not know them. */
static unsigned report_orphans(struct report *report, const struct listing *listing,
                               const struct local_device *devices, size_t n)
{
    unsigned orphans = 0;

    for (size_t i = 0; i < n; i++) {
        const nr_export *x;
        g_autofree char *remedy = NULL;

        if (!devices[i].in_use || devices[i].cookie[0] == '\0' ||
            listing_find(listing, devices[i].cookie, &x) != NULL)
            continue;
        orphans++;
        remedy = g_strdup_printf("if no other daemon has it: 'nbd-cli file unmap /dev/nbd%d "
                                 "force'",
                                 devices[i].index);
        report_add(report, FINDING_WARNING, "mappings", remedy,
                   "/dev/nbd%d was mapped by nbd-cli, but not from this daemon, or it has "
                   "forgotten it",
                   devices[i].index);
    }
    return orphans;
}

static void check_listing(struct report *report, const struct local_device *devices, size_t n)
{
    struct listing listing = {0};
    struct failure why;

    if (listing_fetch(report->cli, "", NR_L_ALL, &listing, &why) != 0) {
        report_add(report, FINDING_PROBLEM, "exports", NULL, "not known: %s", why.message);
        return;
    }
    check_exports(report, &listing);
    if (report_dead(report, &listing) + report_orphans(report, &listing, devices, n) == 0)
        report_add(report, FINDING_OK, "mappings", NULL, "none is dead");
    listing_clear(&listing);
}

void doctor_check_daemon(struct report *report, const struct local_device *devices,
                         size_t n_devices)
{
    struct failure why;
    nr_status_res res;
    const nr_status *status = &res.nr_status_res_u.status;
    int r = cli_client(report->cli, &why);

    if (r == 0)
        r = client_call(report->cli->client, NR_STATUS, NULL, &res, &why);
    if (r != 0) {
        report_unreached(report, &why);
        return;
    }
    check_version(report, status);
    check_ports(report, status);
    check_state(report, status);
    client_free(NR_STATUS, &res);
    check_handlers(report);
    check_listing(report, devices, n_devices);
}
