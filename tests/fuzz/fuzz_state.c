/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Fuzz target: the state file. What was read is saved again.
 */
#include "fuzz.h"
#include "job.h"
#include "store.h"

static void on_saved(void *arg, int result, const struct nbd_failure *why)
{
    (void)result;
    (void)why;
    *(bool *)arg = true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autofree char *path = g_build_filename(fuzz_directory(), "saveconfig.json", NULL);
    struct server *server = fuzz_server_new();
    struct nbd_failure why;
    bool saved = false;

    g_file_set_contents(path, (const char *)data, (gssize)size, NULL);
    server->jobs = job_table_new(server);
    server->store = store_new(server, path);
    if (store_load(server->store, &why) == 0) {
        store_save(server->store, on_saved, &saved);
        while (!saved)
            event_base_loop(loop_base(server->loop), EVLOOP_ONCE);
    }
    fuzz_server_free(server);
    fuzz_empty_directory();
    return 0;
}
