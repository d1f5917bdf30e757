/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The table of all metrics: a row for each family, and what writes its samples. A scrape first
 * looks at every export and client once, then goes through the table; families of exports
 * take many steps, since all samples of a family must stand together. Exports may come and go
 * meanwhile: each step looks for what follows the last name.
 */
#include "metrics_table.h"

#include <dirent.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

#include "buffer.h"
#include "connection.h"
#include "exposition.h"
#include "job.h"
#include "log.h"
#include "mapping.h"
#include "rpc_server.h"
#include "server.h"
#include "store.h"

#define EXPORTS_PER_STEP 32
#define STATES_MAX 16 /* more than any of the enums has */

struct scrape {
    struct server *server;
    const struct histogram *lateness;
    struct exposition e;
    unsigned exports[STATES_MAX], mappings[STATES_MAX], phases[STATES_MAX];
    unsigned long total_in_flight;

    bool counted;          /* each export has been looked at */
    unsigned family;       /* of the table: the next one, or the one that is being written */
    char *after;           /* the last export that was taken; NULL: none */
};

/* A row. One of the three writes its samples. */
struct family {
    const char *name;
    enum metric_type type;
    const char *unit, *help;
    void (*of_daemon)(struct scrape *s);
    void (*of_handler)(struct scrape *s, const struct counter_sums *sums, const char *handler);
    void (*of_export)(struct scrape *s, const struct export *export);
};

/* ---- Of the daemon ---- */

static void write_build(struct scrape *s)
{
    exposition_labels(&s->e, "version", PACKAGE_VERSION, "boot_id", s->server->boot_id, NULL);
    exposition_count(&s->e, 1);
}

static void write_start_time(struct scrape *s)
{
    exposition_number(&s->e, (double)s->server->started_us / 1e6);
}

static void write_uptime(struct scrape *s)
{
    exposition_number(&s->e, (double)(g_get_real_time() - s->server->started_us) / 1e6);
}

static void write_stopping(struct scrape *s)
{
    exposition_count(&s->e, s->server->stopping);
}

/* Every state that has a name, also those that nothing is in: a series must not come and go. */
static void write_states(struct scrape *s, const char *label, const unsigned *counts,
                         const char *const *names, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        exposition_labels(&s->e, label, names[i], NULL);
        exposition_count(&s->e, counts[i]);
    }
}

static void write_exports(struct scrape *s)
{
    for (unsigned i = 0; i < STATES_MAX; i++) {
        if (i > EXPORT_FAULTED && s->exports[i] == 0)
            continue;
        exposition_labels(&s->e, "state", export_state_name((enum export_state)i), NULL);
        exposition_count(&s->e, s->exports[i]);
    }
}

static void write_mappings(struct scrape *s)
{
    static const char *const names[] = {
        [MAPPING_STATE_MAPPING] = "mapping",
        [MAPPING_STATE_LIVE] = "live",
        [MAPPING_STATE_DEAD] = "dead",
        [MAPPING_STATE_UNMAPPING] = "unmapping",
    };

    write_states(s, "state", s->mappings + 1, names + 1, G_N_ELEMENTS(names) - 1);
}

static void write_connections(struct scrape *s)
{
    static const char *const names[] = {
        [PHASE_GREETING] = "greeting",         [PHASE_OPTIONS] = "options",
        [PHASE_OPENING] = "opening",           [PHASE_TRANSMISSION] = "transmission",
        [PHASE_DRAINING] = "draining",         [PHASE_CLOSING] = "closing",
    };

    write_states(s, "phase", s->phases, names, G_N_ELEMENTS(names));
}

static void write_connections_max(struct scrape *s)
{
    exposition_count(&s->e, s->server->config->max_connections);
}

static void write_accepted(struct scrape *s)
{
    exposition_count(&s->e, connection_accepted(s->server->connections));
}

static void write_turned_away(struct scrape *s)
{
    exposition_count(&s->e, connection_turned_away(s->server->connections));
}

static void write_in_flight(struct scrape *s)
{
    exposition_count(&s->e, s->total_in_flight);
}

static void write_payload(struct scrape *s)
{
    exposition_count(&s->e, buffer_pool_used(s->server->buffers));
}

static void write_payload_max(struct scrape *s)
{
    exposition_count(&s->e, s->server->config->max_inflight_bytes);
}

static void write_control_clients(struct scrape *s)
{
    exposition_count(&s->e, s->server->rpc != NULL ? rpc_server_clients(s->server->rpc) : 0);
}

static const char *job_state_name(enum job_state state)
{
    static const char *const names[] = {
        [JOB_QUEUED] = "queued",     [JOB_RUNNING] = "running", [JOB_CONVERGING] = "converging",
        [JOB_RETRYING] = "retrying", [JOB_DONE] = "done",       [JOB_FAILED] = "failed",
        [JOB_CANCELED] = "canceled",
    };

    return names[state];
}

static void write_jobs(struct scrape *s)
{
    unsigned counts[JOB_SYNC + 1][JOB_CANCELED + 1] = { 0 };
    struct job_table *jobs = s->server->jobs;

    for (const struct job *job = jobs != NULL ? job_next(jobs, NULL) : NULL; job != NULL;
         job = job_next(jobs, job->id))
        counts[job->kind][job_shown_state(job)]++;
    for (unsigned kind = 0; kind <= JOB_SYNC; kind++)
        for (unsigned state = 0; state <= JOB_CANCELED; state++) {
            exposition_labels(&s->e, "kind", job_kind_name((enum job_kind)kind), "state",
                              job_state_name((enum job_state)state), NULL);
            exposition_count(&s->e, counts[kind][state]);
        }
}

static void write_worker_calls(struct scrape *s)
{
    unsigned running, queued;

    worker_pool_count(s->server->workers, &running, &queued);
    exposition_labels(&s->e, "state", "running", NULL);
    exposition_count(&s->e, running);
    exposition_labels(&s->e, "state", "queued", NULL);
    exposition_count(&s->e, queued);
}

static void write_lateness(struct scrape *s)
{
    exposition_histogram(&s->e, s->lateness);
}

static enum store_state state_of(const struct scrape *s)
{
    return s->server->store != NULL ? store_state(s->server->store, NULL) : STORE_SAVED;
}

static void write_state_unsaved(struct scrape *s)
{
    exposition_count(&s->e, state_of(s) == STORE_UNSAVED);
}

static void write_state_degraded(struct scrape *s)
{
    exposition_count(&s->e, state_of(s) == STORE_DEGRADED);
}

static void write_generation(struct scrape *s)
{
    exposition_count(&s->e, s->server->store != NULL ? store_generation(s->server->store) : 0);
}

static void write_log_lines(struct scrape *s)
{
    static const enum nbd_log_level levels[] = { NBD_LOG_ERROR, NBD_LOG_WARNING, NBD_LOG_INFO,
                                                 NBD_LOG_DEBUG };

    for (size_t i = 0; i < G_N_ELEMENTS(levels); i++) {
        exposition_labels(&s->e, "level", log_level_name(levels[i]), NULL);
        exposition_count(&s->e, log_written(levels[i]));
    }
}

static void write_log_lost(struct scrape *s)
{
    exposition_count(&s->e, log_lost());
}

/* ---- Of the process, as other programs name it ---- */

static void write_cpu(struct scrape *s)
{
    struct rusage usage;

    getrusage(RUSAGE_SELF, &usage);
    exposition_number(&s->e, (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                                 (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6);
}

static void write_memory(struct scrape *s)
{
    unsigned long pages = 0;
    FILE *statm = fopen("/proc/self/statm", "re");

    if (statm == NULL || fscanf(statm, "%*u %lu", &pages) != 1)
        pages = 0;
    if (statm != NULL)
        fclose(statm);
    exposition_count(&s->e, (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE));
}

static void write_open_fds(struct scrape *s)
{
    DIR *dir = opendir("/proc/self/fd");
    uint64_t n = 0;

    while (dir != NULL && readdir(dir) != NULL)
        n++;
    if (dir != NULL)
        closedir(dir);
    exposition_count(&s->e, n > 3 ? n - 3 : 0); /* ".", "..", and the directory itself */
}

static void write_max_fds(struct scrape *s)
{
    struct rlimit limit = { 0 };

    getrlimit(RLIMIT_NOFILE, &limit);
    exposition_count(&s->e, limit.rlim_cur);
}

/* ---- Of handlers and exports ---- */

/* The labels that say whose it is; `name` and `value` are one more, or NULL. */
static void label_export(struct scrape *s, const struct export *export, const char *name,
                         const char *value)
{
    exposition_labels(&s->e, "export", export->name, "handler", export->handler_name, name,
                      value, NULL);
}

static void label_handler(struct scrape *s, const char *handler, const char *name,
                          const char *value)
{
    exposition_labels(&s->e, "handler", handler, name, value, NULL);
}

static void handler_requests(struct scrape *s, const struct counter_sums *sums,
                             const char *handler)
{
    for (unsigned i = 0; i < N_COMMANDS; i++) {
        if (command_name(i) == NULL)
            continue;
        label_handler(s, handler, "command", command_name(i));
        exposition_count(&s->e, sums->counters.requests[i]);
    }
}

static void handler_bytes(struct scrape *s, const struct counter_sums *sums,
                          const char *handler)
{
    for (enum byte_kind i = 0; i < N_BYTE_KINDS; i++) {
        label_handler(s, handler, "direction", byte_kind_name(i));
        exposition_count(&s->e, sums->counters.bytes[i]);
    }
}

static void handler_errors(struct scrape *s, const struct counter_sums *sums,
                           const char *handler)
{
    for (enum error_kind i = 0; i < N_ERROR_KINDS; i++) {
        label_handler(s, handler, "error", error_kind_name(i));
        exposition_count(&s->e, sums->counters.errors[i]);
    }
}

static void handler_durations(struct scrape *s, const struct counter_sums *sums,
                              const char *handler)
{
    for (enum latency_class i = 0; i < N_LATENCY_CLASSES; i++) {
        label_handler(s, handler, "class", latency_class_name(i));
        exposition_histogram(&s->e, &sums->latencies.of[i]);
    }
}

static void export_up(struct scrape *s, const struct export *export)
{
    label_export(s, export, NULL, NULL);
    exposition_count(&s->e, export->state != EXPORT_FAULTED);
}

static void export_size(struct scrape *s, const struct export *export)
{
    label_export(s, export, NULL, NULL);
    exposition_count(&s->e, export->size);
}

static void export_connections(struct scrape *s, const struct export *export)
{
    label_export(s, export, NULL, NULL);
    exposition_count(&s->e, export->connections);
}

static void export_in_flight(struct scrape *s, const struct export *export)
{
    label_export(s, export, NULL, NULL);
    exposition_count(&s->e, export->in_flight);
}

static void export_orphans(struct scrape *s, const struct export *export)
{
    label_export(s, export, NULL, NULL);
    exposition_count(&s->e, export->orphans);
}

/* Of counters of an export only those that have begun to count: most exports of many never
 * see most commands, and no error. */

static void export_requests(struct scrape *s, const struct export *export)
{
    for (unsigned i = 0; i < N_COMMANDS; i++) {
        if (command_name(i) == NULL || export->tally.now.requests[i] == 0)
            continue;
        label_export(s, export, "command", command_name(i));
        exposition_count(&s->e, export->tally.now.requests[i]);
    }
}

static void export_bytes(struct scrape *s, const struct export *export)
{
    for (enum byte_kind i = 0; i < N_BYTE_KINDS; i++) {
        if (export->tally.now.bytes[i] == 0)
            continue;
        label_export(s, export, "direction", byte_kind_name(i));
        exposition_count(&s->e, export->tally.now.bytes[i]);
    }
}

static void export_errors(struct scrape *s, const struct export *export)
{
    for (enum error_kind i = 0; i < N_ERROR_KINDS; i++) {
        if (export->tally.now.errors[i] == 0)
            continue;
        label_export(s, export, "error", error_kind_name(i));
        exposition_count(&s->e, export->tally.now.errors[i]);
    }
}

static void export_durations(struct scrape *s, const struct export *export)
{
    if (export->tally.latencies == NULL)
        return;
    for (enum latency_class i = 0; i < N_LATENCY_CLASSES; i++) {
        const struct histogram *histogram = &export->tally.latencies->now.of[i];

        if (histogram_count(histogram) == 0)
            continue;
        label_export(s, export, "class", latency_class_name(i));
        exposition_histogram(&s->e, histogram);
    }
}

/* ---- The table ---- */

static const struct family families[] = {
    { "nbd_runner_build", METRIC_INFO, "", "Version, and an id of this run of the daemon.",
      .of_daemon = write_build },
    { "nbd_runner_start_time_seconds", METRIC_GAUGE, "seconds",
      "When the daemon started, since 1970.", .of_daemon = write_start_time },
    { "nbd_runner_uptime_seconds", METRIC_GAUGE, "seconds",
      "How long the daemon has been running.", .of_daemon = write_uptime },
    { "nbd_runner_stopping", METRIC_GAUGE, "", "1 while the daemon is shutting down.",
      .of_daemon = write_stopping },
    { "nbd_runner_exports", METRIC_GAUGE, "", "Exports by state.", .of_daemon = write_exports },
    { "nbd_runner_mappings", METRIC_GAUGE, "", "Mappings to kernel devices by state.",
      .of_daemon = write_mappings },
    { "nbd_runner_connections", METRIC_GAUGE, "", "NBD connections by phase.",
      .of_daemon = write_connections },
    { "nbd_runner_connections_limit", METRIC_GAUGE, "", "The setting max_connections.",
      .of_daemon = write_connections_max },
    { "nbd_runner_connections_accepted", METRIC_COUNTER, "", "NBD connections that were taken.",
      .of_daemon = write_accepted },
    { "nbd_runner_connections_turned_away", METRIC_COUNTER, "",
      "NBD connections that were closed at once.", .of_daemon = write_turned_away },
    { "nbd_runner_requests_in_flight", METRIC_GAUGE, "",
      "Requests that have been submitted to handlers and not completed.",
      .of_daemon = write_in_flight },
    { "nbd_runner_payload_bytes", METRIC_GAUGE, "bytes",
      "Memory that is lent for payloads of requests.", .of_daemon = write_payload },
    { "nbd_runner_payload_limit_bytes", METRIC_GAUGE, "bytes",
      "The setting max_inflight_bytes.", .of_daemon = write_payload_max },
    { "nbd_runner_control_clients", METRIC_GAUGE, "", "Connections to the control port.",
      .of_daemon = write_control_clients },
    { "nbd_runner_jobs", METRIC_GAUGE, "",
      "Jobs that run, and those that have ended in the last day, by kind and state.",
      .of_daemon = write_jobs },
    { "nbd_runner_worker_calls", METRIC_GAUGE, "",
      "Blocking calls that run on worker threads, or wait for one.",
      .of_daemon = write_worker_calls },
    { "nbd_runner_loop_lateness_seconds", METRIC_HISTOGRAM, "seconds",
      "How late a timer of the loop was, ten times a second.", .of_daemon = write_lateness },
    { "nbd_runner_state_unsaved", METRIC_GAUGE, "",
      "1 while changes could not be written to the state file.",
      .of_daemon = write_state_unsaved },
    { "nbd_runner_state_degraded", METRIC_GAUGE, "",
      "1 when the state file could not be read at the start.",
      .of_daemon = write_state_degraded },
    { "nbd_runner_state_generation", METRIC_GAUGE, "", "Number of the state that was saved last.",
      .of_daemon = write_generation },
    { "nbd_runner_log_lines", METRIC_COUNTER, "", "Lines of the log by level.",
      .of_daemon = write_log_lines },
    { "nbd_runner_log_lost_lines", METRIC_COUNTER, "",
      "Lines of the log that its reader did not take in time.", .of_daemon = write_log_lost },
    { "process_cpu_seconds", METRIC_COUNTER, "seconds", "Time of all CPUs, of all threads.",
      .of_daemon = write_cpu },
    { "process_resident_memory_bytes", METRIC_GAUGE, "bytes", "Resident memory.",
      .of_daemon = write_memory },
    { "process_open_fds", METRIC_GAUGE, "", "Open descriptors.", .of_daemon = write_open_fds },
    { "process_max_fds", METRIC_GAUGE, "", "Limit of open descriptors.",
      .of_daemon = write_max_fds },

    { "nbd_runner_handler_requests", METRIC_COUNTER, "",
      "Requests by handler and command, of removed exports too.",
      .of_handler = handler_requests },
    { "nbd_runner_handler_bytes", METRIC_COUNTER, "bytes",
      "Bytes that were read, written, zeroed and trimmed, by handler.",
      .of_handler = handler_bytes },
    { "nbd_runner_handler_errors", METRIC_COUNTER, "",
      "Requests that were answered with an error, by handler and error.",
      .of_handler = handler_errors },
    { "nbd_runner_handler_request_duration_seconds", METRIC_HISTOGRAM, "seconds",
      "Time from a whole request to its reply, by handler and class of command.",
      .of_handler = handler_durations },

    { "nbd_runner_export_up", METRIC_GAUGE, "", "0 while the export is faulted, else 1.",
      .of_export = export_up },
    { "nbd_runner_export_size_bytes", METRIC_GAUGE, "bytes", "Size of the export.",
      .of_export = export_size },
    { "nbd_runner_export_connections", METRIC_GAUGE, "", "NBD connections that use the export.",
      .of_export = export_connections },
    { "nbd_runner_export_requests_in_flight", METRIC_GAUGE, "",
      "Requests that have been submitted and not completed.", .of_export = export_in_flight },
    { "nbd_runner_export_orphan_requests", METRIC_GAUGE, "",
      "Requests that were answered when their time was over, and that the storage still has.",
      .of_export = export_orphans },
    { "nbd_runner_export_requests", METRIC_COUNTER, "", "Requests by command.",
      .of_export = export_requests },
    { "nbd_runner_export_bytes", METRIC_COUNTER, "bytes",
      "Bytes that were read, written, zeroed and trimmed.", .of_export = export_bytes },
    { "nbd_runner_export_errors", METRIC_COUNTER, "",
      "Requests that were answered with an error, by error.", .of_export = export_errors },
    { "nbd_runner_export_request_duration_seconds", METRIC_HISTOGRAM, "seconds",
      "Time from a whole request to its reply, by class of command.",
      .of_export = export_durations },
};

/* ---- Steps ---- */

/* The next exports, in order; false: there are no more. */
static bool each_export(struct scrape *s,
                        void (*visit)(struct scrape *s, struct export *export, void *arg),
                        void *arg)
{
    struct export *export = registry_next(s->server->registry, s->after);

    for (unsigned i = 0; i < EXPORTS_PER_STEP && export != NULL; i++) {
        visit(s, export, arg);
        g_free(s->after);
        s->after = g_strdup(export->name);
        export = registry_next(s->server->registry, s->after);
    }
    if (export != NULL)
        return true;
    g_clear_pointer(&s->after, g_free);
    return false;
}

static void count_export(struct scrape *s, struct export *export, void *arg)
{
    (void)arg;
    s->exports[export->state]++;
    for (guint i = 0; i < export->mappings->len; i++)
        s->mappings[mapping_state(g_ptr_array_index(export->mappings, i))]++;
    sums_add(s->server->sums, export->handler_name, &export->tally);
}

static void count_clients(struct scrape *s)
{
    for (struct connection *conn = connection_next(s->server->connections, 0); conn != NULL;
         conn = conn->next) {
        s->phases[conn->phase]++;
        s->total_in_flight += conn->in_flight;
    }
}

static void write_export(struct scrape *s, struct export *export, void *arg)
{
    const struct family *family = arg;

    family->of_export(s, export);
}

static void write_handlers(struct scrape *s, const struct family *family)
{
    const struct sums_table *table = s->server->sums;

    for (const char *handler = sums_next(table, NULL); handler != NULL;
         handler = sums_next(table, handler))
        family->of_handler(s, sums_find(table, handler), handler);
}

/* True: it goes on with this family. */
static bool write_family(struct scrape *s, const struct family *family)
{
    if (s->after == NULL)
        exposition_family(&s->e, family->name, family->type, family->unit, family->help);
    if (family->of_export != NULL)
        return each_export(s, write_export, (void *)family);
    if (family->of_handler != NULL)
        write_handlers(s, family);
    else
        family->of_daemon(s);
    return false;
}

bool scrape_step(struct scrape *s)
{
    if (!s->counted) {
        s->counted = !each_export(s, count_export, NULL);
        return true;
    }
    if (s->family < G_N_ELEMENTS(families)) {
        if (!write_family(s, &families[s->family]))
            s->family++;
        return true;
    }
    exposition_end(&s->e);
    return false;
}

GString *scrape_text(struct scrape *s)
{
    return s->e.text;
}

struct scrape *scrape_new(struct server *server, const struct histogram *lateness,
                          bool openmetrics)
{
    struct scrape *s = g_new0(struct scrape, 1);

    s->server = server;
    s->lateness = lateness;
    s->e.text = g_string_new(NULL);
    s->e.openmetrics = openmetrics;
    count_clients(s);
    return s;
}

void scrape_free(struct scrape *s)
{
    g_string_free(s->e.text, TRUE);
    g_free(s->after);
    g_free(s);
}
