/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Messages to the service manager: states and the watchdog. It learns nothing else from here,
 * and says nothing: what it hands over at the start takes activation.c. Loop thread.
 */
#include "notify.h"

#include <glib.h>
#include <inttypes.h>
#include <stdarg.h>
#include <string.h>
#include <time.h>

#ifdef HAVE_LIBSYSTEMD
#include <systemd/sd-daemon.h>
#else
static int sd_notify(int unset_environment, const char *state)
{
    (void)unset_environment;
    (void)state;
    return 0;
}
static int sd_watchdog_enabled(int unset_environment, uint64_t *usec)
{
    (void)unset_environment;
    (void)usec;
    return 0;
}
#endif

/* The state, then the text as a STATUS= line. A failure is nobody's business: the manager is
 * gone, or never was there. */
__attribute__((format(printf, 2, 0)))
static void send_state(const char *state, const char *status, va_list args)
{
    g_autofree char *text = g_strdup_vprintf(status, args);
    g_autofree char *message = NULL;

    g_strdelimit(text, "\n", ' '); /* a line break would begin another assignment */
    message = g_strdup_printf("%s\nSTATUS=%s", state, text);
    sd_notify(0, message);
}

void notify_ready(const char *status, ...)
{
    va_list args;

    va_start(args, status);
    send_state("READY=1", status, args);
    va_end(args);
}

void notify_reloading(void)
{
    struct timespec now;
    char message[96];

    clock_gettime(CLOCK_MONOTONIC, &now);
    g_snprintf(message, sizeof(message),
               "RELOADING=1\nMONOTONIC_USEC=%" PRIi64 "\nSTATUS=reading the configuration again",
               (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000);
    sd_notify(0, message);
}

void notify_stopping(const char *status, ...)
{
    va_list args;

    va_start(args, status);
    send_state("STOPPING=1", status, args);
    va_end(args);
}

void notify_extend(unsigned seconds, const char *status, ...)
{
    char state[64];
    va_list args;

    g_snprintf(state, sizeof(state), "EXTEND_TIMEOUT_USEC=%" PRIu64,
               (uint64_t)seconds * 1000000);
    va_start(args, status);
    send_state(state, status, args);
    va_end(args);
}

/* ---- The watchdog ---- */

struct watchdog {
    struct event *timer;
};

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    (void)arg;
    sd_notify(0, "WATCHDOG=1");
}

struct watchdog *watchdog_start(struct loop *loop)
{
    struct watchdog *watchdog;
    uint64_t usec = 0;
    struct timeval half;

    if (sd_watchdog_enabled(0, &usec) <= 0 || usec < 2)
        return NULL;
    half = (struct timeval){ .tv_sec = (time_t)(usec / 2 / 1000000),
                             .tv_usec = (suseconds_t)(usec / 2 % 1000000) };
    watchdog = g_new0(struct watchdog, 1);
    watchdog->timer = event_new(loop_base(loop), -1, EV_PERSIST, on_timer, NULL);
    event_add(watchdog->timer, &half);
    on_timer(-1, 0, NULL);
    return watchdog;
}

void watchdog_stop(struct watchdog *watchdog)
{
    if (watchdog == NULL)
        return;
    event_free(watchdog->timer);
    g_free(watchdog);
}
