/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Where the lines of the log go. Each line is one system call on a descriptor that does not
 * block, so that lines of different threads never mix and nobody waits for a reader. The
 * journal and syslog are written to directly: the calls of their libraries may block.
 */
#include "log_output.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#include <glib.h>

#include "log.h"

#define IDENTIFIER "nbd-runner"
#define JOURNAL_SOCKET "/run/systemd/journal/socket" /* systemd.journal-fields(7) */
#define SYSLOG_SOCKET "/dev/log"
#define SOCKET_BUFFER (1 << 20)
#define LINE_MAX_BYTES (LOG_TEXT_MAX + 48) /* with what stands before the text */

enum output_kind {
    STREAM_PLAIN,    /* "2026-11-21 04:05:06.789 info: text" */
    STREAM_PRIORITY, /* "<6>text", as sd-daemon(3) says */
    JOURNAL,
    SYSLOG,
};

/* One descriptor for good, whatever it leads to: a thread that is about to send never meets a
 * number that has been closed or means something else. */
static atomic_int output = STDERR_FILENO;
static atomic_int kind = STREAM_PLAIN;
static atomic_bool is_socket;

/* Loop thread only; where datagrams go is set before `kind` says that they do. */
static char *file;
static struct sockaddr_un address = { .sun_family = AF_UNIX };

/* ---- Opening ---- */

/* A terminal or pipe is opened once more: O_NONBLOCK on ours would be everybody's who has it
 * too. Files and sockets must stay what they are, for the place in the file. */
static int open_stderr(void)
{
    struct stat st;
    int fd = -1;

    if (fstat(STDERR_FILENO, &st) < 0)
        return open("/dev/null", O_WRONLY | O_CLOEXEC);
    if (S_ISFIFO(st.st_mode) || S_ISCHR(st.st_mode))
        fd = open("/proc/self/fd/2", O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (fd < 0)
        fd = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    return fd < 0 ? -errno : fd;
}

static int open_file(const char *path)
{
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0640);

    return fd < 0 ? -errno : fd;
}

/* A socket for datagrams to `path`, which somebody reads. */
static int open_socket(const char *path)
{
    struct sockaddr_un to = { .sun_family = AF_UNIX };
    int size = SOCKET_BUFFER, r, fd;

    if (strlen(path) >= sizeof(to.sun_path))
        return -ENAMETOOLONG;
    strcpy(to.sun_path, path);
    fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    r = connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0 ? -errno : 0;
    if (r < 0) {
        close(fd);
        return r;
    }
    /* The reader may start anew behind the same path: each datagram says where it goes. */
    connect(fd, &(struct sockaddr){ .sa_family = AF_UNSPEC }, sizeof(struct sockaddr));
    address = to;
    return fd;
}

/* Takes over fd. */
static void use(int fd, enum output_kind new_kind, const char *new_file)
{
    struct stat st;
    char *old_file = file;
    int own = atomic_load(&output);

    atomic_store(&is_socket, fstat(fd, &st) == 0 && S_ISSOCK(st.st_mode));
    if (own == STDERR_FILENO) {
        atomic_store(&output, fd);
    } else {
        dup3(fd, own, O_CLOEXEC);
        close(fd);
    }
    atomic_store(&kind, new_kind);
    file = g_strdup(new_file);
    g_free(old_file);
}

/* Is stderr what systemd has connected to the journal? systemd.exec(5), JOURNAL_STREAM. */
static bool stderr_is_journal(void)
{
    const char *stream = getenv("JOURNAL_STREAM");
    g_autofree char *ours = NULL;
    struct stat st;

    if (stream == NULL || fstat(STDERR_FILENO, &st) < 0)
        return false;
    ours = g_strdup_printf("%ju:%ju", (uintmax_t)st.st_dev, (uintmax_t)st.st_ino);
    return strcmp(stream, ours) == 0;
}

static int use_stderr(void)
{
    int fd = open_stderr();

    if (fd < 0)
        return fd;
    use(fd, stderr_is_journal() ? STREAM_PRIORITY : STREAM_PLAIN, NULL);
    return 0;
}

static int use_socket(const char *path, enum output_kind new_kind)
{
    int fd = open_socket(path);

    if (fd < 0)
        return fd;
    use(fd, new_kind, NULL);
    return 0;
}

static int use_file(const char *path)
{
    int fd = open_file(path);

    if (fd < 0)
        return fd;
    use(fd, STREAM_PLAIN, path);
    return 0;
}

int log_output_set(const char *target)
{
    if (strcmp(target, "auto") == 0)
        return stderr_is_journal() && use_socket(JOURNAL_SOCKET, JOURNAL) == 0 ? 0 : use_stderr();
    if (strcmp(target, "stderr") == 0)
        return use_stderr();
    if (strcmp(target, "journal") == 0)
        return use_socket(JOURNAL_SOCKET, JOURNAL);
    if (g_str_has_prefix(target, "journal:"))
        return use_socket(target + strlen("journal:"), JOURNAL);
    if (strcmp(target, "syslog") == 0)
        return use_socket(SYSLOG_SOCKET, SYSLOG);
    if (g_str_has_prefix(target, "syslog:"))
        return use_socket(target + strlen("syslog:"), SYSLOG);
    if (g_str_has_prefix(target, "file:"))
        return use_file(target + strlen("file:"));
    return -EINVAL;
}

int log_output_reopen(void)
{
    g_autofree char *path = g_strdup(file);

    return path != NULL ? use_file(path) : 0;
}

const char *log_output_file(void)
{
    return file;
}

/* ---- Sending ---- */

static bool send_bytes(int fd, const char *line, size_t length)
{
    ssize_t n = atomic_load(&is_socket)
                    ? send(fd, line, length, MSG_DONTWAIT | MSG_NOSIGNAL)
                    : write(fd, line, length);

    return n == (ssize_t)length;
}

static bool send_plain(int fd, const struct log_line *line)
{
    char bytes[LINE_MAX_BYTES + 1];
    struct timespec now;
    struct tm tm;
    size_t length;

    clock_gettime(CLOCK_REALTIME, &now);
    localtime_r(&now.tv_sec, &tm);
    length = strftime(bytes, sizeof(bytes), "%F %T", &tm);
    length += (size_t)snprintf(bytes + length, sizeof(bytes) - length, ".%03ld %s: %.*s\n",
                               now.tv_nsec / 1000000, log_level_name(line->level),
                               LOG_TEXT_MAX, line->text);
    return send_bytes(fd, bytes, length);
}

static bool send_priority(int fd, const struct log_line *line)
{
    char bytes[LINE_MAX_BYTES + 1];
    int length = snprintf(bytes, sizeof(bytes), "<%d>%.*s\n", (int)line->level, LOG_TEXT_MAX,
                          line->text);

    return send_bytes(fd, bytes, (size_t)length);
}

static bool send_datagram(int fd, struct iovec *iov, size_t n)
{
    struct msghdr message = { .msg_name = &address, .msg_namelen = sizeof(address),
                              .msg_iov = iov, .msg_iovlen = n };

    return sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0;
}

static void add(struct iovec *iov, size_t *n, const char *text)
{
    iov[(*n)++] = (struct iovec){ (char *)text, strlen(text) };
}

static void add_field(struct iovec *iov, size_t *n, const char *name, const char *value)
{
    if (value == NULL || *value == '\0')
        return;
    add(iov, n, name);
    add(iov, n, value);
    add(iov, n, "\n");
}

/* The journal's native protocol: lines NAME=VALUE, for values without a newline. */
static bool send_journal(int fd, const struct log_line *line)
{
    char priority[] = { (char)('0' + line->level), '\0' };
    struct iovec iov[16];
    size_t n = 0;

    add_field(iov, &n, "MESSAGE=", *line->text != '\0' ? line->text : " ");
    add_field(iov, &n, "PRIORITY=", priority);
    add_field(iov, &n, "SYSLOG_IDENTIFIER=", IDENTIFIER);
    add_field(iov, &n, "EXPORT=", line->export);
    add_field(iov, &n, "CLIENT=", line->client);
    return send_datagram(fd, iov, n);
}

/* As syslog(3) writes it: "<30>Nov 21 04:05:06 nbd-runner[17]: text". */
static bool send_syslog(int fd, const struct log_line *line)
{
    char head[64], stamp[32];
    time_t now = time(NULL);
    struct iovec iov[2];
    struct tm tm;
    size_t n = 0;

    localtime_r(&now, &tm);
    strftime(stamp, sizeof(stamp), "%b %e %T", &tm);
    snprintf(head, sizeof(head), "<%d>%s " IDENTIFIER "[%d]: ", LOG_DAEMON | (int)line->level,
             stamp, (int)getpid());
    add(iov, &n, head);
    add(iov, &n, line->text);
    return send_datagram(fd, iov, n);
}

bool log_output_send(const struct log_line *line)
{
    static bool (*const senders[])(int fd, const struct log_line *line) = {
        [STREAM_PLAIN] = send_plain,
        [STREAM_PRIORITY] = send_priority,
        [JOURNAL] = send_journal,
        [SYSLOG] = send_syslog,
    };
    int how = atomic_load(&kind);

    return senders[how](atomic_load(&output), line);
}
