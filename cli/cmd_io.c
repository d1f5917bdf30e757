/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * read and write: a range of an export to stdout, or from stdin. Several requests are in
 * flight; data goes out, and comes in, in order.
 */
#include "command.h"
#include "output.h"
#include "progress.h"
#include "remote.h"

#include <errno.h>
#include <glib.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#define CHUNK_BYTES (1u << 20)
#define IN_FLIGHT_MAX 8
#define HOLD_BYTES_MAX (256u << 20) /* of stdin, before anything is written */

#define WORDS_OF_BOTH                                                                         \
    {.name = "EXPORT",                                                                        \
     .kind = WORD_OPTIONAL,                                                                   \
     .max = NR_TARGET_MAX,                                                                    \
     .help = "its name, or a URI (nbd://HOST/NAME, nbd+unix:///NAME?socket=PATH)"},           \
        {.name = "from",                                                                      \
         .kind = WORD_VALUE,                                                                  \
         .type = TYPE_OFFSET,                                                                 \
         .value = "OFFSET",                                                                   \
         .required = true,                                                                    \
         .letter = 'F',                                                                       \
         .help = "first byte"},                                                               \
        {.name = "size",                                                                      \
         .kind = WORD_VALUE,                                                                  \
         .type = TYPE_LENGTH,                                                                 \
         .value = "SIZE",                                                                     \
         .required = true,                                                                    \
         .letter = 'S',                                                                       \
         .help = "number of bytes"},                                                          \
        {.name = "addr",                                                                      \
         .kind = WORD_VALUE,                                                                  \
         .value = "ADDR",                                                                     \
         .letter = 'l',                                                                       \
         .min = 1,                                                                            \
         .max = 255,                                                                          \
         .option_only = true,                                                                 \
         .help = "NBD server, instead of asking the daemon"},                                 \
        {.name = "port",                                                                      \
         .kind = WORD_VALUE,                                                                  \
         .type = TYPE_NUMBER,                                                                 \
         .value = "PORT",                                                                     \
         .letter = 'p',                                                                       \
         .min = 1,                                                                            \
         .max = 65535,                                                                        \
         .option_only = true,                                                                 \
         .help = "its port (10809)"},                                                         \
    {                                                                                         \
        .name = "bind", .kind = WORD_VALUE, .value = "ADDR", .letter = 'b', .min = 1,         \
        .max = 255, .option_only = true, .help = "connect from this address"                  \
    }

const struct word words_read[] = {
    WORDS_OF_BOTH,
    {.name = NULL},
};

const struct word words_write[] = {
    WORDS_OF_BOTH,
    {.name = "fua", .kind = WORD_FLAG, .help = "each request stable before it is answered"},
    {.name = "flush", .kind = WORD_FLAG, .help = "all of it stable at the end"},
    {.name = NULL},
};

/* A copy under way. Requests are issued and finished in order, so a ring is enough. */
struct copy {
    struct cli *cli;
    struct remote remote;
    const char *what;          /* "read", "write" */
    uint64_t offset, size;     /* the range */
    uint64_t issued, finished; /* bytes of it */
    uint32_t chunk_bytes;
    uint32_t write_flags;
    char *held; /* all of stdin, or NULL */
    struct {
        char *buffer;
        uint32_t length;
        int64_t cookie;
    } slot[IN_FLIGHT_MAX];
    size_t head, n_slots;
};

/* ---- Standard streams ---- */

/* Less than length at the end of the file. Returns the bytes read or a negative errno. */
static int64_t read_stdin(char *data, uint64_t length)
{
    uint64_t done = 0;

    while (done < length) {
        ssize_t n = read(STDIN_FILENO, data + done, MIN(length - done, CHUNK_BYTES));

        if (n == 0)
            break;
        if (n < 0 && errno != EINTR)
            return -errno;
        done += n > 0 ? (uint64_t)n : 0;
    }
    return (int64_t)done;
}

static int take_stdin(struct copy *copy, char *data, uint64_t length, struct failure *why)
{
    int64_t n = read_stdin(data, length);

    if (n < 0)
        return fail_with(why, STATUS_FAILED, "reading stdin failed: %s", strerror((int)-n));
    if ((uint64_t)n == length)
        return 0;
    if (copy->held != NULL)
        return fail_with(why, STATUS_FAILED,
                         "stdin ended after %" PRId64 " of %" PRIu64
                         " bytes; nothing was written",
                         n, copy->size);
    return fail_with(why, STATUS_FAILED,
                     "stdin ended after %" PRIu64 " of %" PRIu64
                     " bytes; up to there it may have been written",
                     copy->issued + (uint64_t)n, copy->size);
}

static int give_stdout(struct copy *copy, const char *data, size_t length, struct failure *why)
{
    if (fwrite(data, 1, length, copy->cli->out) != length)
        return fail_with(why, STATUS_FAILED, "writing to stdout failed: %s", strerror(errno));
    return 0;
}

/* ---- Requests ---- */

static int issue_read(struct copy *copy, size_t i, struct failure *why)
{
    copy->slot[i].cookie =
        nbd_aio_pread(copy->remote.nbd, copy->slot[i].buffer, copy->slot[i].length,
                      copy->offset + copy->issued, NBD_NULL_COMPLETION, 0);
    return copy->slot[i].cookie < 0 ? remote_fail(why) : 0;
}

static int issue_write(struct copy *copy, size_t i, struct failure *why)
{
    const char *data = copy->slot[i].buffer;

    if (copy->held != NULL) {
        data = copy->held + copy->issued;
    } else {
        int r = take_stdin(copy, copy->slot[i].buffer, copy->slot[i].length, why);

        if (r != 0)
            return r;
    }
    copy->slot[i].cookie =
        nbd_aio_pwrite(copy->remote.nbd, data, copy->slot[i].length,
                       copy->offset + copy->issued, NBD_NULL_COMPLETION, copy->write_flags);
    return copy->slot[i].cookie < 0 ? remote_fail(why) : 0;
}

static int issue_next(struct copy *copy, bool is_write, struct failure *why)
{
    size_t i = (copy->head + copy->n_slots) % IN_FLIGHT_MAX;
    int r;

    if (copy->slot[i].buffer == NULL && copy->held == NULL)
        copy->slot[i].buffer = g_malloc(copy->chunk_bytes);
    copy->slot[i].length = (uint32_t)MIN(copy->size - copy->issued, copy->chunk_bytes);
    r = is_write ? issue_write(copy, i, why) : issue_read(copy, i, why);
    if (r == 0) {
        copy->issued += copy->slot[i].length;
        copy->n_slots++;
    }
    return r;
}

static int finish_first(struct copy *copy, bool is_write, struct failure *why)
{
    size_t i = copy->head;
    int r = remote_finish(&copy->remote, copy->slot[i].cookie, why);

    if (r == 0 && !is_write)
        r = give_stdout(copy, copy->slot[i].buffer, copy->slot[i].length, why);
    copy->head = (i + 1) % IN_FLIGHT_MAX;
    copy->n_slots--;
    copy->finished += copy->slot[i].length;
    progress_show(copy->what, copy->finished, copy->size);
    return r;
}

static int run_copy(struct copy *copy, bool is_write, struct failure *why)
{
    int r = 0;

    while (r == 0 && copy->finished < copy->size) {
        if (copy->n_slots < IN_FLIGHT_MAX && copy->issued < copy->size)
            r = issue_next(copy, is_write, why);
        else
            r = finish_first(copy, is_write, why);
    }
    return r;
}

static int flush_export(struct copy *copy, struct failure *why)
{
    int64_t cookie;

    if (nbd_can_flush(copy->remote.nbd) != 1)
        return fail_with(why, STATUS_FAILED,
                         "the data is written, but the server cannot flush");
    cookie = nbd_aio_flush(copy->remote.nbd, NBD_NULL_COMPLETION, 0);
    return cookie < 0 ? remote_fail(why) : remote_finish(&copy->remote, cookie, why);
}

/* ---- Beginning and end ---- */

static int check_range(struct copy *copy, struct failure *why)
{
    int64_t size = nbd_get_size(copy->remote.nbd);
    int64_t largest = nbd_get_block_size(copy->remote.nbd, LIBNBD_SIZE_MAXIMUM);

    if (size < 0)
        return remote_fail(why);
    if (copy->offset > (uint64_t)size || copy->size > (uint64_t)size - copy->offset)
        return fail_with(why, STATUS_FAILED,
                         "%" PRIu64 " bytes from %" PRIu64 " are not all in the "
                         "export, which has %" PRIu64,
                         copy->size, copy->offset, (uint64_t)size);
    copy->chunk_bytes = CHUNK_BYTES;
    if (largest > 0 && largest < CHUNK_BYTES)
        copy->chunk_bytes = (uint32_t)largest;
    return 0;
}

static int begin_copy(struct cli *cli, const char *what, struct copy *copy,
                      struct failure *why)
{
    int r;

    *copy = (struct copy){
        .cli = cli,
        .what = what,
        .offset = words_number(&cli->words, "from", 0),
        .size = words_number(&cli->words, "size", 0),
    };
    r = remote_connect(cli, &copy->remote, why);
    if (r == 0)
        r = remote_go(&copy->remote, why);
    return r == 0 ? check_range(copy, why) : r;
}

/* libnbd goes first: requests that are still in flight use the buffers. */
static void end_copy(struct copy *copy)
{
    if (copy->remote.nbd != NULL)
        nbd_aio_disconnect(copy->remote.nbd, 0);
    remote_close(&copy->remote);
    for (size_t i = 0; i < IN_FLIGHT_MAX; i++)
        g_free(copy->slot[i].buffer);
    g_free(copy->held);
    progress_end();
}

int cmd_read(struct cli *cli, struct failure *why)
{
    struct copy copy;
    int r = begin_copy(cli, "read", &copy, why);

    if (r == 0)
        r = run_copy(&copy, false, why);
    end_copy(&copy);
    return r;
}

static int prepare_write(struct copy *copy, struct failure *why)
{
    struct nbd_handle *nbd = copy->remote.nbd;

    if (nbd_is_read_only(nbd) != 0)
        return fail_code(why, STATUS_FAILED, "EPERM", "the export is read-only");
    if (words_has(&copy->cli->words, "fua")) {
        if (nbd_can_fua(nbd) != 1)
            return fail_code(why, STATUS_FAILED, "ENOTSUP",
                             "the server cannot do FUA; use "
                             "'flush'");
        copy->write_flags = LIBNBD_CMD_FLAG_FUA;
    }
    if (words_has(&copy->cli->words, "flush") && nbd_can_flush(nbd) != 1)
        return fail_code(why, STATUS_FAILED, "ENOTSUP", "the server cannot flush");
    if (copy->size > HOLD_BYTES_MAX)
        return 0;
    copy->held = g_try_malloc(copy->size);
    return copy->held != NULL ? take_stdin(copy, copy->held, copy->size, why) : 0;
}

int cmd_write(struct cli *cli, struct failure *why)
{
    struct copy copy;
    int r = begin_copy(cli, "write", &copy, why);

    if (r == 0)
        r = prepare_write(&copy, why);
    if (r == 0)
        r = run_copy(&copy, true, why);
    if (r == 0 && words_has(&cli->words, "flush"))
        r = flush_export(&copy, why);
    if (r == 0)
        json_put_number(cli_answer(cli), "written_bytes", copy.finished);
    end_copy(&copy);
    return r;
}
