/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The handler ABI: what a backstore plug-in (libXXX_handler.so) gives to nbd-runner and what
 * it gets. This is the only header of the project that a handler needs.
 *
 * A handler exports one function, handler_init(), which returns a struct nbd_handler that
 * stays valid as long as the library is loaded. All sizes, offsets and lengths are bytes.
 * Errors are negative errno values (errno(3)).
 *
 * Threads: the daemon has one loop thread, which owns all of its state, and a pool of worker
 * threads for calls that may block. Each callback says on which of the two it runs. For one
 * device the control callbacks (cfg_parse ... resize) never run at the same time as each other.
 *
 * ABI history:
 *   1  first version; since then the host has got lost(), fenced(), troubled()
 */
#ifndef NBD_RUNNER_HANDLER_H
#define NBD_RUNNER_HANDLER_H

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

#define NBD_HANDLER_ABI 1

struct json_object;

/* ---- Failures ------------------------------------------------------------------------- */

/* Why a call failed: an errno value and the sentence that the operator will read. It names
 * the object and the cause, and starts with a small letter: it is put behind a prefix. */
struct nbd_failure {
    int code;           /* positive, of errno(3) */
    char message[1024]; /* UTF-8, no newline; "": none */
};

/* Fill *why (which may be NULL) and return -code. Any thread. */
__attribute__((format(printf, 3, 4)))
static inline int nbd_fail(struct nbd_failure *why, int code, const char *format, ...)
{
    if (why != NULL) {
        va_list args;

        why->code = code;
        va_start(args, format);
        vsnprintf(why->message, sizeof(why->message), format, args);
        va_end(args);
    }
    return -code;
}

/* ---- What the daemon offers ------------------------------------------------------------ */

enum nbd_log_level {
    NBD_LOG_ERROR = 3,   /* the numbers of syslog(3) */
    NBD_LOG_WARNING = 4,
    NBD_LOG_INFO = 6,
    NBD_LOG_DEBUG = 7,
};

struct nbd_watch;
struct nbd_device;

/* The daemon's services. Valid until the library is unloaded. New members go at the end. */
struct nbd_host {
    uint32_t size; /* of this struct, as the daemon knows it */

    /* Any thread. One line, without a newline. */
    void (*log)(enum nbd_log_level level, const char *format, ...)
        __attribute__((format(printf, 2, 3)));

    /* Loop thread. Calls ready(arg) on the loop whenever fd is readable, until unwatch().
     * NULL when there is no memory or no such descriptor. fd stays the caller's, who closes it
     * after unwatch() only. */
    struct nbd_watch *(*watch)(int fd, void (*ready)(void *arg), void *arg);
    void (*unwatch)(struct nbd_watch *watch);

    /* Any thread. Runs work(arg) on a worker thread, then done(arg) on the loop, never from
     * inside run(); arg stays the caller's. */
    void (*run)(void (*work)(void *arg), void (*done)(void *arg), void *arg);

    /* Any thread. Runs fn(arg) on the loop, never from inside post(); arg stays the
     * caller's. */
    void (*post)(void (*fn)(void *arg), void *arg);

    /* -- Later than the first version: ask nbd_host_has() first. -- */

    /* Any thread, while the device is mapped: before unmap() returns. This backstore will
     * serve nothing any more, unless it is unmapped and mapped again; `reason` is a sentence
     * for the operator. Report it before the requests that failed with it are ended. The daemon
     * then gives no more requests, waits until those that are outstanding have ended, calls
     * unmap() and tries map() until it succeeds. Requests that have ended with an error since
     * are repeated. Not for handlers with sendfile_fd(). */
    void (*lost)(struct nbd_device *dev, const char *reason);

    /* The same, but somebody has shut us out on purpose and may use the backstore himself by
     * now. What clients have asked for until it is open again must not come late: it fails. */
    void (*fenced)(struct nbd_device *dev, const char *reason);

    /* Any thread, likewise. The backstore is away, but the handler holds or fails requests and
     * keeps trying by itself, whether or not there are any. The export is shown as faulted, for
     * this reason, and takes no new clients. NULL: it is back. */
    void (*troubled)(struct nbd_device *dev, const char *reason);
};

#define nbd_host_has(host, member)                                                            \
    ((host)->size >= offsetof(struct nbd_host, member) + sizeof((host)->member))

/* What handler_init() gets. Valid until the library is unloaded; keep the pointer. */
struct nbd_config {
    uint32_t abi;  /* NBD_HANDLER_ABI of the daemon */
    uint32_t size; /* of this struct, as the daemon knows it */
    const struct nbd_host *host;
    unsigned threads;              /* worker threads one device may keep busy */
    const char *gluster_host;      /* management host ("ghost"): a name or an address */
    const char *const *file_roots; /* absolute paths, NULL-terminated */
};

/* ---- Devices --------------------------------------------------------------------------- */

/* What a mapped device can do; the handler sets them in map(). A capability that is missing
 * is neither offered to clients nor submitted, except that FUA is then done as a write and a
 * flush, and zeroes as a write of zeroes. */
enum nbd_caps {
    NBD_CAP_FLUSH = 1 << 0,      /* completed writes can be brought to stable storage */
    NBD_CAP_FUA = 1 << 1,        /* so can a single write, before it is done */
    NBD_CAP_TRIM = 1 << 2,       /* ranges can be given up; what they read as is open */
    NBD_CAP_WRITE_ZEROES = 1 << 3,
    NBD_CAP_FAST_ZERO = 1 << 4,  /* can tell beforehand that zeroing would be slow */
    NBD_CAP_CACHE = 1 << 5,      /* ranges can be read ahead */
    NBD_CAP_MULTI_CONN = 1 << 6, /* a flush covers completed writes of every connection */
    NBD_CAP_ROTATIONAL = 1 << 7, /* seeks cost time; clients are told */
};

/* A handler-specific setting of a backstore, such as direct=true. */
struct nbd_opt {
    const char *key;
    const char *value;
};

/* A backstore. Owned by the daemon, with the strings and options; all of it is valid from
 * cfg_parse() until destroy() has returned. */
struct nbd_device {
    /* Set by the daemon before cfg_parse(); the handler only reads them. */
    const char *name;   /* of the export */
    const char *target; /* what cfg_parse() gets */
    const struct nbd_opt *opts; /* those that are the handler's, no key twice */
    size_t n_opts;
    bool readonly;  /* open it for reading only; may change between uses */
    bool prealloc;  /* create(): allocate all blocks now */
    bool trusted;   /* the target was written by the machine's administrator (command line,
                       conf.d), not received through the control port */
    uint64_t size;  /* create(), resize(): the wanted size */

    /* Set by the handler in map(). Before it the daemon sets: no capability, blocks of 1 byte
     * minimum, 4096 preferred. Powers of two: min_block up to 65536, pref_block up to 4 MiB;
     * else these are taken. A READ or WRITE has 64 MiB at most, whatever they are. */
    uint32_t caps;       /* of enum nbd_caps */
    uint32_t min_block;  /* smallest unit and alignment of a request, bytes */
    uint32_t pref_block; /* unit that is fast, bytes */

    void *priv; /* the handler's own */
};

/* ---- Requests -------------------------------------------------------------------------- */

/* Numbers of the NBD protocol (NBD_CMD_*). */
enum nbd_op {
    NBD_OP_READ = 0,
    NBD_OP_WRITE = 1,
    NBD_OP_FLUSH = 3,
    NBD_OP_TRIM = 4,
    NBD_OP_CACHE = 5,
    NBD_OP_WRITE_ZEROES = 6,
};

/* Numbers of the NBD protocol (NBD_CMD_FLAG_*). */
enum nbd_request_flag {
    NBD_RQ_FUA = 1 << 0,       /* WRITE, TRIM, WRITE_ZEROES: on stable storage when done */
    NBD_RQ_NO_HOLE = 1 << 1,   /* WRITE_ZEROES: keep the range allocated */
    NBD_RQ_FAST_ZERO = 1 << 4, /* WRITE_ZEROES: -ENOTSUP at once rather than slowly */
};

/* One request. The daemon has checked it: the range lies in the device and is aligned to
 * min_block, the flags fit the operation and the capabilities, a read-only device gets no
 * change. FLUSH has offset and length 0. */
struct nbd_request {
    struct nbd_device *dev;
    uint64_t offset; /* bytes, from the start of the device */
    uint64_t length; /* bytes */
    uint16_t op;    /* enum nbd_op */
    uint16_t flags; /* enum nbd_request_flag */
    void *data;     /* READ: where to put `length` bytes; WRITE: the bytes; else NULL. The
                       daemon's, until done() */

    /* Ends the request, exactly once, from any thread: result is 0 or a negative errno.
     * The request may be gone when done() returns. */
    void (*done)(struct nbd_request *rq, int result);

    uint64_t scratch[4]; /* the handler's own, undefined at submit() */
};

/* Kinds of extents; numbers of the base:allocation context. */
enum nbd_extent_flag {
    NBD_EXTENT_DATA = 0,
    NBD_EXTENT_HOLE = 1 << 0,
    NBD_EXTENT_ZERO = 1 << 1, /* reads as zeroes */
};

/* Takes one extent of `length` bytes, adjacent to the one before; flags are of enum
 * nbd_extent_flag. Nonzero: enough, stop. On the thread of extents(). */
typedef int nbd_add_extent(void *arg, uint64_t length, uint32_t flags);

/* ---- The handler ----------------------------------------------------------------------- */

struct nbd_handler {
    const char *name; /* "file": the first word of a backstore; [a-z0-9]+ */
    int subtype;      /* number of a built-in handler (enum handler_t of rpc_nbd.x), else 0 */

    /* -- Worker thread; may block. 0 or a negative errno with *why filled. -- */

    /* Check the target and remember what it says in dev->priv. Called once, first. */
    int (*cfg_parse)(struct nbd_device *dev, const char *cfgstring, struct nbd_failure *why);

    /* Make the backing store, dev->size bytes. NULL: cannot. Leaves nothing behind when it
     * fails. -EEXIST when it is there already. */
    int (*create)(struct nbd_device *dev, struct nbd_failure *why);

    /* Remove the backing store; the device is not mapped. -ENOENT when it is not there.
     * NULL: cannot. */
    int (*delete)(struct nbd_device *dev, struct nbd_failure *why);

    /* Open the backstore; requests may follow. */
    int (*map)(struct nbd_device *dev, struct nbd_failure *why);

    /* Close it; no request is outstanding. */
    void (*unmap)(struct nbd_device *dev);

    /* Size of the mapped device in bytes, or a negative errno. */
    int64_t (*get_size)(struct nbd_device *dev);

    /* Logical block size of the mapped device for kernel clients: bytes, a power of two from
     * 512 to 4096; anything else means 512. NULL: 512. */
    int64_t (*get_blksize)(struct nbd_device *dev);

    /* One request, may block; ends in rq->done(). Used when there is no submit(). */
    void (*handle_request)(struct nbd_request *rq);

    /* What the handler wants to remember about a device, the object "handler_data" of the
     * state file. Optional. load_json: worker thread, after cfg_parse(), when there is one.
     * update_json: loop thread, must not block, after each successful create() or map(); false:
     * nothing to remember. */
    bool (*load_json)(struct nbd_device *dev, struct json_object *data);
    bool (*update_json)(struct nbd_device *dev, struct json_object *data);

    /* -- Optional from here on: NULL when absent. -- */

    /* Loop thread, must not block. Start the request; it ends in rq->done(), from any
     * thread, even from inside submit(). rq and rq->data stay valid until then. */
    void (*submit)(struct nbd_request *rq);

    /* Loop thread, must not block. Once after the last of several submit() calls. */
    void (*submit_batch)(struct nbd_device *dev);

    /* Loop thread, must not block. Serve the request at once if that cannot block: 0, or a
     * negative errno as the final result. -EAGAIN: not now; it is then submitted. rq and
     * rq->data are lent for the call only; rq->done is not set. */
    int (*try_now)(struct nbd_request *rq);

    /* Loop thread, must not block. A descriptor from which sendfile(2) can send all of this
     * range of the device (same offsets) without waiting for storage, or -1. */
    int (*sendfile_fd)(struct nbd_device *dev, uint64_t offset, uint64_t length);

    /* Worker thread, may block. Describe the range in order by calls of add(). While it
     * runs, requests go on. 0 or a negative errno. */
    int (*extents)(struct nbd_device *dev, uint64_t offset, uint64_t length,
                   nbd_add_extent *add, void *arg);

    /* Worker thread, may block; requests go on. Change the size of the mapped device to
     * dev->size, larger or smaller. 0 or a negative errno with *why filled; the daemon then
     * asks get_size(). */
    int (*resize)(struct nbd_device *dev, struct nbd_failure *why);

    /* Loop thread, while create() runs on a worker: make it end soon with -ECANCELED. */
    void (*cancel)(struct nbd_device *dev);

    /* Loop thread, must not block, while create() runs on a worker: bytes done and to do. */
    void (*progress)(struct nbd_device *dev, uint64_t *done, uint64_t *total);

    /* Worker thread. Free what cfg_parse() made. The last call for this device. */
    void (*destroy)(struct nbd_device *dev);

    /* Loop thread, just before the library is unloaded; no device is left. */
    void (*fini)(void);

    /* Worker thread, may block; after cfg_parse(). Look at what the target names now, without
     * opening it: its size in bytes, 0 when that is not known. -ENOENT: there is nothing; or
     * another negative errno. When the device is mapped, -ESTALE with a sentence when the
     * target no longer names what was opened. */
    int64_t (*probe)(struct nbd_device *dev, struct nbd_failure *why);

    /* Loop thread, must not block; for a range that sendfile_fd() has agreed to, or may agree
     * to. The address at which the range lies in memory, to be sent from without waiting for
     * storage; NULL: nowhere now. *length (bytes, > 0) is shortened to what lies there
     * together. Good until this turn of the loop ends, for system calls only: a file that has
     * become shorter makes them fail with EFAULT. */
    const void *(*mapped)(struct nbd_device *dev, uint64_t offset, uint64_t *length);
};

/* Which ABI a library was built for. The daemon looks it up before it calls anything. Every
 * library that includes this header has it: a handler need not mention it. */
struct nbd_handler_abi {
    uint32_t version;      /* NBD_HANDLER_ABI */
    uint32_t handler_size; /* of struct nbd_handler, bytes */
};
extern const struct nbd_handler_abi nbd_handler_abi;
__attribute__((weak, visibility("default"))) const struct nbd_handler_abi nbd_handler_abi = {
    NBD_HANDLER_ABI, sizeof(struct nbd_handler)
};

/* The entry point that each library exports. Called at start, before the loop runs: first in
 * a process of its own that ends then, with services that do nothing, so that a library which
 * crashes does no harm; then once in the daemon.
 * NULL: the handler cannot work here; it has logged why through config->host->log. */
struct nbd_handler *handler_init(const struct nbd_config *config);

#ifdef __cplusplus
}
#endif

#endif
