/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * One scrape of all metrics. It first looks at every export and client once, then goes through
 * the table; families of exports take many steps, since all samples of a family must stand
 * together. Exports may come and go meanwhile: each step looks for what follows the last name.
 */
#include "metrics_table.h"

#include "connection.h"
#include "mapping.h"
#include "metrics_family.h"
#include "registry.h"
#include "server.h"

#define EXPORTS_PER_STEP 32

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
    const struct export_tally *tally = &export->tally;

    if (family->export_value != NULL)
        metrics_write_export_value(s, export, family->export_value(export));
    else
        family->of_export(s, &(struct counted){
            .export = export->name, .handler = export->handler_name, .counters = &tally->now,
            .latencies = tally->latencies != NULL ? &tally->latencies->now : NULL });
}

static void write_handlers(struct scrape *s, const struct family *family)
{
    const struct sums_table *table = s->server->sums;

    for (const char *handler = sums_next(table, NULL); handler != NULL;
         handler = sums_next(table, handler)) {
        const struct counter_sums *sums = sums_find(table, handler);

        family->of_handler(s, &(struct counted){ .handler = handler,
                                                 .counters = &sums->counters,
                                                 .latencies = &sums->latencies });
    }
}

/* True: it goes on with this family. */
static bool write_family(struct scrape *s, const struct family *family)
{
    if (s->after == NULL)
        exposition_family(&s->e, family->name, family->type, family->unit, family->help);
    if (family->of_export != NULL || family->export_value != NULL)
        return each_export(s, write_export, (void *)family);
    if (family->of_handler != NULL)
        write_handlers(s, family);
    else if (family->write != NULL)
        family->write(s);
    else
        exposition_count(&s->e, family->value(s));
    return false;
}

/* In the order of the text; NULL: that was the last. */
static const struct family *family_at(size_t i)
{
    if (i < n_daemon_families)
        return &daemon_families[i];
    i -= n_daemon_families;
    return i < n_export_families ? &export_families[i] : NULL;
}

bool scrape_step(struct scrape *s)
{
    const struct family *family;

    if (!s->counted) {
        s->counted = !each_export(s, count_export, NULL);
        return true;
    }
    family = family_at(s->family);
    if (family != NULL) {
        if (!write_family(s, family))
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
