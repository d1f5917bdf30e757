/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The metrics of the daemon as a whole and of its process: a row for each family, and what its
 * samples are. Knows nothing of single exports. Loop thread only.
 */
#include "metrics_family.h"

#include <dirent.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

#include "buffer.h"
#include "connection.h"
#include "job.h"
#include "log.h"
#include "mapping.h"
#include "rpc_server.h"
#include "server.h"
#include "store.h"

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

static uint64_t get_stopping(const struct scrape *s)
{
    return s->server->stopping;
}

static void write_sample(struct scrape *s, const char *label, const char *value, uint64_t count)
{
    exposition_labels(&s->e, label, value, NULL);
    exposition_count(&s->e, count);
}

/* Every state that has a name, also those that nothing is in: a series must not come and go. */
static void write_states(struct scrape *s, const char *label, const unsigned *counts,
                         const char *const *names, size_t n)
{
    for (size_t i = 0; i < n; i++)
        write_sample(s, label, names[i], counts[i]);
}

static void write_exports(struct scrape *s)
{
    for (enum export_state i = 0; i <= EXPORT_FAULTED; i++)
        write_sample(s, "state", export_state_name(i), s->exports[i]);
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

static uint64_t get_connections_max(const struct scrape *s)
{
    return s->server->config->max_connections;
}

static uint64_t get_accepted(const struct scrape *s)
{
    return connection_accepted(s->server->connections);
}

static uint64_t get_turned_away(const struct scrape *s)
{
    return connection_turned_away(s->server->connections);
}

static uint64_t get_in_flight(const struct scrape *s)
{
    return s->total_in_flight;
}

static uint64_t get_payload(const struct scrape *s)
{
    return buffer_pool_used(s->server->buffers);
}

static uint64_t get_payload_max(const struct scrape *s)
{
    return s->server->config->max_inflight_bytes;
}

static uint64_t get_control_clients(const struct scrape *s)
{
    return s->server->rpc != NULL ? rpc_server_clients(s->server->rpc) : 0;
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
    write_sample(s, "state", "running", running);
    write_sample(s, "state", "queued", queued);
}

static void write_lateness(struct scrape *s)
{
    exposition_histogram(&s->e, s->lateness);
}

static enum store_state state_of(const struct scrape *s)
{
    return s->server->store != NULL ? store_state(s->server->store, NULL) : STORE_SAVED;
}

static uint64_t get_state_unsaved(const struct scrape *s)
{
    return state_of(s) == STORE_UNSAVED;
}

static uint64_t get_state_degraded(const struct scrape *s)
{
    return state_of(s) == STORE_DEGRADED;
}

static uint64_t get_generation(const struct scrape *s)
{
    return s->server->store != NULL ? store_generation(s->server->store) : 0;
}

static void write_log_lines(struct scrape *s)
{
    static const enum nbd_log_level levels[] = { NBD_LOG_ERROR, NBD_LOG_WARNING, NBD_LOG_INFO,
                                                 NBD_LOG_DEBUG };

    for (size_t i = 0; i < G_N_ELEMENTS(levels); i++)
        write_sample(s, "level", log_level_name(levels[i]), log_written(levels[i]));
}

static uint64_t get_log_lost(const struct scrape *s)
{
    (void)s;
    return log_lost();
}

/* ---- Of the process, as other programs name it ---- */

static void write_cpu(struct scrape *s)
{
    struct rusage usage;

    getrusage(RUSAGE_SELF, &usage);
    exposition_number(&s->e, (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                                 (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6);
}

static uint64_t get_memory(const struct scrape *s)
{
    unsigned long pages = 0;
    FILE *statm = fopen("/proc/self/statm", "re");

    (void)s;
    if (statm == NULL || fscanf(statm, "%*u %lu", &pages) != 1)
        pages = 0;
    if (statm != NULL)
        fclose(statm);
    return (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

static uint64_t get_open_fds(const struct scrape *s)
{
    DIR *dir = opendir("/proc/self/fd");
    uint64_t n = 0;

    (void)s;
    while (dir != NULL && readdir(dir) != NULL)
        n++;
    if (dir != NULL)
        closedir(dir);
    return n > 3 ? n - 3 : 0; /* ".", "..", and the directory itself */
}

static uint64_t get_max_fds(const struct scrape *s)
{
    struct rlimit limit = { 0 };

    (void)s;
    getrlimit(RLIMIT_NOFILE, &limit);
    return limit.rlim_cur;
}

/* ---- The rows ---- */

const struct family daemon_families[] = {
    { "nbd_runner_build", METRIC_INFO, "", "Version, and an id of this run of the daemon.",
      .write = write_build },
    { "nbd_runner_start_time_seconds", METRIC_GAUGE, "seconds",
      "When the daemon started, since 1970.", .write = write_start_time },
    { "nbd_runner_uptime_seconds", METRIC_GAUGE, "seconds",
      "How long the daemon has been running.", .write = write_uptime },
    { "nbd_runner_stopping", METRIC_GAUGE, "", "1 while the daemon is shutting down.",
      .value = get_stopping },
    { "nbd_runner_exports", METRIC_GAUGE, "", "Exports by state.", .write = write_exports },
    { "nbd_runner_mappings", METRIC_GAUGE, "", "Mappings to kernel devices by state.",
      .write = write_mappings },
    { "nbd_runner_connections", METRIC_GAUGE, "", "NBD connections by phase.",
      .write = write_connections },
    { "nbd_runner_connections_limit", METRIC_GAUGE, "", "The setting max_connections.",
      .value = get_connections_max },
    { "nbd_runner_connections_accepted", METRIC_COUNTER, "", "NBD connections that were taken.",
      .value = get_accepted },
    { "nbd_runner_connections_turned_away", METRIC_COUNTER, "",
      "NBD connections that were closed at once.", .value = get_turned_away },
    { "nbd_runner_requests_in_flight", METRIC_GAUGE, "",
      "Requests that have been submitted to handlers and not completed.",
      .value = get_in_flight },
    { "nbd_runner_payload_bytes", METRIC_GAUGE, "bytes",
      "Memory that is lent for payloads of requests.", .value = get_payload },
    { "nbd_runner_payload_limit_bytes", METRIC_GAUGE, "bytes",
      "The setting max_inflight_bytes.", .value = get_payload_max },
    { "nbd_runner_control_clients", METRIC_GAUGE, "", "Connections to the control port.",
      .value = get_control_clients },
    { "nbd_runner_jobs", METRIC_GAUGE, "",
      "Jobs that run, and those that have ended in the last day, by kind and state.",
      .write = write_jobs },
    { "nbd_runner_worker_calls", METRIC_GAUGE, "",
      "Blocking calls that run on worker threads, or wait for one.",
      .write = write_worker_calls },
    { "nbd_runner_loop_lateness_seconds", METRIC_HISTOGRAM, "seconds",
      "How late a timer of the loop was, ten times a second.", .write = write_lateness },
    { "nbd_runner_state_unsaved", METRIC_GAUGE, "",
      "1 while changes could not be written to the state file.",
      .value = get_state_unsaved },
    { "nbd_runner_state_degraded", METRIC_GAUGE, "",
      "1 when the state file could not be read at the start.",
      .value = get_state_degraded },
    { "nbd_runner_state_generation", METRIC_GAUGE, "", "Number of the state that was saved last.",
      .value = get_generation },
    { "nbd_runner_log_lines", METRIC_COUNTER, "", "Lines of the log by level.",
      .write = write_log_lines },
    { "nbd_runner_log_lost_lines", METRIC_COUNTER, "",
      "Lines of the log that its reader did not take in time.", .value = get_log_lost },
    { "process_cpu_seconds", METRIC_COUNTER, "seconds", "Time of all CPUs, of all threads.",
      .write = write_cpu },
    { "process_resident_memory_bytes", METRIC_GAUGE, "bytes", "Resident memory.",
      .value = get_memory },
    { "process_open_fds", METRIC_GAUGE, "", "Open descriptors.", .value = get_open_fds },
    { "process_max_fds", METRIC_GAUGE, "", "Limit of open descriptors.",
      .value = get_max_fds },
};

const size_t n_daemon_families = G_N_ELEMENTS(daemon_families);
