/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * What nbd-cli top shows: the daemon's counters of two moments as rates, sorted. Knows no
 * screen. top_screen.c shows it on a terminal, cmd_top.c as text and JSON.
 */
#ifndef CLI_TOP_H
#define CLI_TOP_H

#include "command.h"

#include <glib.h>

/* What is counted since some start. */
struct top_totals {
    uint64_t requests, read_bytes, written_bytes, errors;
    uint64_t timed, time_ns; /* requests whose time was taken, and all of it */
};

/* Of an export, of a client, or of the daemon. */
struct top_row {
    char *name;       /* of the export, or the address of the client */
    char *note;       /* of an export: its handler; of a client: its export */
    const char *state;
    unsigned in_flight, connections;
    struct top_totals totals;
    double requests, read_bytes, written_bytes, errors; /* per second */
    double time_s;    /* mean of a request; negative: none was timed */
};

enum top_sort {
    TOP_BY_REQUESTS, TOP_BY_READ, TOP_BY_WRITTEN, TOP_BY_TIME, TOP_BY_IN_FLIGHT,
    TOP_BY_CONNECTIONS, TOP_BY_ERRORS, TOP_BY_NAME, N_TOP_SORTS
};

struct top {
    enum top_sort sort;
    int64_t at_us;        /* of the last sample, monotonic; 0: there is none */
    double elapsed_s;     /* between the last two */
    GPtrArray *exports, *clients; /* struct top_row *, sorted */
    struct top_row daemon;
    struct {
        char version[64], state[32];
        int64_t started_us;
        unsigned exports, faulted, clients, jobs;
        uint64_t payload_bytes, log_lost;
    } facts;
    GHashTable *before;   /* "kind:name" -> struct top_totals of the sample before */
};

void top_init(struct top *top);
void top_clear(struct top *top);

/* Another sample. A failure leaves the last one as it was. */
int top_refresh(struct top *top, struct cli *cli, struct failure *why);
void top_sort(struct top *top);

const char *top_sort_name(enum top_sort sort); /* "requests" */
bool top_sort_find(const char *name, enum top_sort *ret_sort);

#define TOP_TEXT_MAX 16
/* Short texts: "1.2K" of a rate, by thousands or by 1024; "1.2ms" of a time. */
const char *top_rate(double rate, double unit, char text[TOP_TEXT_MAX]);
const char *top_time(double seconds, char text[TOP_TEXT_MAX]);

/* The line about the daemon; g_free(). */
char *top_headline(const struct top *top);

#ifdef HAVE_NCURSES
/* Shows it until the user has enough, or `count` times (0: no limit). */
int top_screen(struct cli *cli, struct top *top, uint64_t interval_s, uint64_t count,
               struct failure *why);
#endif

#endif
