/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Reading what is hot without asking the kernel for each request: chunks of the file that are
 * read often are mapped into memory, and copied or sent from there. A page that is not in memory
 * would stop the loop until it has been read, so mincore(2) tells which pages are; what it says
 * counts for a moment only, and after it has seen pages go, mapping rests for a while. Writes go
 * this way to tmpfs only, where they never wait for a file system. Runs on the loop, but for
 * file_may_be_mapped() and file_mapped_close().
 */
#include <fcntl.h>
#include <glib.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "file.h"

#define CHUNK_BYTES (UINT64_C(2) << 20)
#define PAGES_MAX (CHUNK_BYTES / 4096)

/* Of one file: 8 GiB may be mapped. Each is found by its number, modulo this. */
#define CHUNKS 4096

/* Of all files: so much of the memory of this machine, in no more mappings than leave most of
 * the 65,530 that a process has (vm.max_map_count). */
#define MEMORY_PART 8
#define CHUNKS_OF_ALL_FILES 16384

/* Set in the environment: map nothing. */
#define NO_MAPPING_VARIABLE "NBD_RUNNER_NO_MAPPING"

/* Reads of a file until it gets its table of chunks. */
#define READS_MIN 64

/* A chunk is mapped after so many reads of a page of it within so long... */
#define HITS_TO_MAP 16
#define COUNTING_MS 1000

/* ... what mincore() says of it is believed for so long, and it is asked again only if that has
 * paid: it costs half as much as is saved on one read. */
#define BELIEVED_MS 20
#define HITS_TO_LOOK 3

/* Unused for so long, it may give way to another. */
#define IDLE_MS 1000

/* Pages that were there a moment ago have gone, so memory is short: mapping rests for so long,
 * twice as long each time, until there was none for so many times as long as it has rested. */
#define RECENT_MS 250
#define REST_MIN_MS 20
#define REST_MAX_MS 2000
#define REST_FORGOTTEN 16

struct chunk {
    uint64_t number; /* offset / CHUNK_BYTES */
    uint8_t *address; /* NULL: reads are counted only */
    uint32_t since_ms; /* when counting began, or when mincore() was asked */
    uint32_t hits;     /* since then */
    uint32_t resident; /* pages */
    bool believed;
    uint8_t pages[PAGES_MAX]; /* bit 0: in memory; as mincore() writes them */
};

struct mapped {
    uint32_t rest_ms;       /* the last time; 0: never */
    uint32_t rest_until_ms;
    bool resting;
    struct chunk chunks[CHUNKS];
};

static atomic_uint n_mapped;
static unsigned page_shift, n_mapped_max;
static bool handles_sigbus;
static struct sigaction former_action;

/* Where to go on when a page cannot be had: the file has become shorter, or its storage fails. */
static __thread sigjmp_buf *rescue;

/* ---- Copying ---- */

static void on_sigbus(int number, siginfo_t *info, void *context)
{
    static const char words[] = "nbd-runner: SIGBUS outside of a read from mapped memory\n";

    (void)info;
    (void)context;
    if (rescue != NULL)
        siglongjmp(*rescue, 1);
    /* Not ours: it comes again when this returns. */
    (void)!write(STDERR_FILENO, words, sizeof(words) - 1);
    sigaction(number, &former_action, NULL);
}

/* False: a part of it is not there any more. */
static bool copy(void *to, const void *from, size_t length)
{
    sigjmp_buf here;

    if (sigsetjmp(here, 0) != 0) {
        rescue = NULL;
        return false;
    }
    rescue = &here;
    atomic_signal_fence(memory_order_seq_cst);
    memcpy(to, from, length);
    atomic_signal_fence(memory_order_seq_cst);
    rescue = NULL;
    return true;
}

/* ---- Chunks ---- */

/* A clock that is read without a system call, and moves once in a few milliseconds. Wraps
 * around: only differences count. */
static uint32_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return (uint32_t)((uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000);
}

static void unmap_chunk(struct chunk *chunk)
{
    if (chunk->address == NULL)
        return;
    munmap(chunk->address, CHUNK_BYTES);
    chunk->address = NULL;
    chunk->believed = false;
    atomic_fetch_sub(&n_mapped, 1);
}

/* Storing into a page may wait for a file system, but not for tmpfs. */
static bool may_write(const struct file *file)
{
    return file->in_memory && !file->dev->readonly;
}

static bool map_chunk(const struct file *file, struct chunk *chunk)
{
    void *address;

    if (atomic_fetch_add(&n_mapped, 1) >= n_mapped_max) {
        atomic_fetch_sub(&n_mapped, 1);
        return false;
    }
    address = mmap(NULL, CHUNK_BYTES, PROT_READ | (may_write(file) ? PROT_WRITE : 0),
                   MAP_SHARED, file->fd, (off_t)(chunk->number * CHUNK_BYTES));
    if (address == MAP_FAILED) {
        atomic_fetch_sub(&n_mapped, 1);
        return false;
    }
    madvise(address, CHUNK_BYTES, MADV_RANDOM); /* a fault reads one page, if any */
    madvise(address, CHUNK_BYTES, MADV_DONTDUMP);
    chunk->address = address;
    chunk->resident = 0;
    return true;
}

/* Is what the last look told recent enough, and did it come after the last rest? */
static bool is_news(const struct mapped *mapped, const struct chunk *chunk, uint32_t now)
{
    return now - chunk->since_ms < RECENT_MS &&
           (mapped->rest_ms == 0 || (int32_t)(chunk->since_ms - mapped->rest_until_ms) >= 0);
}

static void rest(struct mapped *mapped, uint32_t now)
{
    if (mapped->rest_ms == 0 || now - mapped->rest_until_ms > REST_FORGOTTEN * mapped->rest_ms)
        mapped->rest_ms = REST_MIN_MS;
    else
        mapped->rest_ms = MIN(2 * mapped->rest_ms, REST_MAX_MS);
    mapped->rest_until_ms = now + mapped->rest_ms;
    mapped->resting = true;
}

/* Ask which pages are in memory. */
static void look(struct mapped *mapped, struct chunk *chunk, uint32_t now)
{
    uint32_t resident = 0;

    if (mincore(chunk->address, CHUNK_BYTES, chunk->pages) < 0)
        return; /* there is no memory for that */
    for (size_t i = 0; i < CHUNK_BYTES >> page_shift; i++)
        resident += chunk->pages[i] & 1;
    if (resident < chunk->resident && is_news(mapped, chunk, now))
        rest(mapped, now);
    chunk->resident = resident;
    chunk->believed = true;
}

/* All at once, instead of a page fault for every few pages. */
static void populate(const struct file *file, const struct chunk *chunk)
{
    if (chunk->resident == CHUNK_BYTES >> page_shift)
        madvise(chunk->address, CHUNK_BYTES,
                may_write(file) ? MADV_POPULATE_WRITE : MADV_POPULATE_READ);
}

/* At the end of the time for which it was believed, or counted. */
static void begin_anew(struct file *file, struct chunk *chunk, uint32_t now)
{
    chunk->believed = false;
    if (chunk->hits >= HITS_TO_LOOK)
        look(file->mapped, chunk, now);
    else
        chunk->resident = 0; /* not known */
    chunk->since_ms = now;
    chunk->hits = 0;
}

static void count_towards_mapping(struct file *file, struct chunk *chunk, uint32_t hits,
                                  uint32_t now)
{
    if (now - chunk->since_ms > COUNTING_MS) {
        chunk->since_ms = now;
        chunk->hits = 0;
    }
    chunk->hits += hits;
    if (chunk->hits < HITS_TO_MAP)
        return;
    if (map_chunk(file, chunk)) {
        look(file->mapped, chunk, now);
        populate(file, chunk);
    }
    chunk->since_ms = now;
    chunk->hits = 0;
}

/* Note a read of some of its pages. NULL: it is not mapped, or nothing is known of it. */
static const struct chunk *find(struct file *file, uint64_t number, uint32_t hits, uint32_t now)
{
    struct chunk *chunk = &file->mapped->chunks[number % CHUNKS];

    if (chunk->number != number) {
        if (chunk->address != NULL && now - chunk->since_ms < IDLE_MS)
            return NULL;
        unmap_chunk(chunk);
        chunk->number = number;
        chunk->since_ms = now;
        chunk->hits = 0;
    }
    if (chunk->address == NULL) {
        count_towards_mapping(file, chunk, hits, now);
    } else {
        if (now - chunk->since_ms > BELIEVED_MS)
            begin_anew(file, chunk, now);
        chunk->hits += hits;
    }
    return chunk->believed ? chunk : NULL;
}

static bool is_resident(const struct chunk *chunk, uint64_t at, uint64_t length)
{
    uint64_t page = at >> page_shift, last = (at + length - 1) >> page_shift;

    if (chunk->resident == CHUNK_BYTES >> page_shift)
        return true;
    while (page <= last && (chunk->pages[page] & 1) != 0)
        page++;
    return page > last;
}

static bool is_resting(struct mapped *mapped, uint32_t now)
{
    if (mapped->resting && (int32_t)(now - mapped->rest_until_ms) >= 0)
        mapped->resting = false;
    return mapped->resting;
}

/* ---- For the other parts ---- */

/* mincore() tells the truth only to who may write the file, or owns it. Where other hosts
 * write, or pages come over a network, nothing is mapped. */
bool file_may_be_mapped(const struct file *file, const struct stat *st)
{
    char self[32];

    if (!file->can_write_inline)
        return false;
    snprintf(self, sizeof(self), "/proc/self/fd/%d", file->fd);
    return st->st_uid == geteuid() || faccessat(AT_FDCWD, self, W_OK, AT_EACCESS) == 0;
}

/* Where the address space is limited, it is wanted for other things. */
static unsigned most_chunks(void)
{
    uint64_t memory = (uint64_t)sysconf(_SC_PHYS_PAGES) << page_shift;
    struct rlimit limit;

    if (g_strcmp0(getenv(NO_MAPPING_VARIABLE), "1") == 0 ||
        getrlimit(RLIMIT_AS, &limit) < 0 || limit.rlim_cur != RLIM_INFINITY)
        return 0;
    return (unsigned)MIN(memory / MEMORY_PART / CHUNK_BYTES, CHUNKS_OF_ALL_FILES);
}

static void begin(void)
{
    struct sigaction action = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO | SA_NODEFER};

    if (handles_sigbus)
        return;
    page_shift = (unsigned)g_bit_nth_msf((gulong)sysconf(_SC_PAGESIZE), -1);
    n_mapped_max = most_chunks();
    handles_sigbus = sigaction(SIGBUS, &action, &former_action) == 0;
}

/* Has it been read often enough for a table of chunks? */
static bool has_table(struct file *file)
{
    if (file->mapped == NULL && file->can_map && ++file->reads >= READS_MIN) {
        begin();
        file->can_map = n_mapped_max > 0;
        file->mapped = file->can_map ? calloc(1, sizeof(*file->mapped)) : NULL;
    }
    return file->mapped != NULL;
}

const void *file_mapped(struct nbd_device *dev, uint64_t offset, uint64_t *length)
{
    struct file *file = dev->priv;
    uint64_t at = offset % CHUNK_BYTES;
    const struct chunk *chunk;
    uint32_t now;

    if (!has_table(file))
        return NULL;
    now = now_ms();
    if (is_resting(file->mapped, now))
        return NULL;
    *length = MIN(*length, CHUNK_BYTES - at);
    chunk = find(file, offset / CHUNK_BYTES, (uint32_t)((*length - 1) >> page_shift) + 1, now);
    return chunk != NULL && is_resident(chunk, at, *length) ? chunk->address + at : NULL;
}

bool file_read_mapped(struct nbd_request *rq)
{
    uint64_t length = rq->length;
    const void *data = length > 0 ? file_mapped(rq->dev, rq->offset, &length) : NULL;

    return data != NULL && length == rq->length && copy(rq->data, data, length);
}

bool file_write_mapped(struct nbd_request *rq)
{
    uint64_t length = rq->length;
    const void *data = length > 0 && may_write(file_of(rq))
                           ? file_mapped(rq->dev, rq->offset, &length) : NULL;

    return data != NULL && length == rq->length && copy((void *)data, rq->data, length);
}

void file_mapped_close(struct file *file)
{
    for (size_t i = 0; file->mapped != NULL && i < CHUNKS; i++)
        unmap_chunk(&file->mapped->chunks[i]);
    free(file->mapped);
    file->mapped = NULL;
    file->reads = 0;
}

void file_mapped_fini(void)
{
    if (handles_sigbus)
        sigaction(SIGBUS, &former_action, NULL);
    handles_sigbus = false;
}
