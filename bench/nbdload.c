/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * nbdload: puts load on an NBD server and prints what came of it as one JSON object. Here: the
 * command line. nbdload.h says where the rest is.
 */
#include <getopt.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <glib.h>

#include "nbdload.h"
#include "wire.h"

#define SECONDS_MAX 600
#define OVERTIME_S 60 /* beyond the seconds of measuring: something hangs */

static const char usage[] =
    "Usage: nbdload [OPTION]... PORT | unix:PATH | FILE\n"
    "Put load on the NBD server at that port of 127.0.0.1, or at that socket.\n"
    "\n"
    "  -m, --mode MODE        read write mix trim zero flush wflush fua; connect idle status\n"
    "                         first; fill and check, which want a FILE\n"
    "  -c, --connections N    (1)\n"
    "  -q, --depth N          requests in flight on each (1)\n"
    "  -b, --block BYTES      of a request (4096)\n"
    "  -s, --sequential       not at random offsets\n"
    "  -t, --seconds S        measure for so long (2)\n"
    "  -w, --warm-up S        before that (0.3)\n"
    "  -e, --export NAME      (the default export)\n"
    "      --exports N        NAME0, NAME1, ...: connections spread over so many\n"
    "      --span BYTES       use only the first bytes; the size for fill\n"
    "      --verify           write a pattern, and check what is read against it\n"
    "      --no-coalesce      send each request by itself, as kernel clients do\n"
    "      --burst            wait for all replies, then send all requests of a connection\n"
    "      --lean             copy no payload: drop what is read, send from a file\n"
    "      --session ID       measure the processes of this session, the server's\n"
    "      --watch            the peak of their memory too\n"
    "      --cpu N            run there\n"
    "      --since NS         first: when the server was started, CLOCK_MONOTONIC\n";

enum {
    OPT_EXPORTS = 256, OPT_SPAN, OPT_VERIFY, OPT_NO_COALESCE, OPT_BURST, OPT_LEAN, OPT_SESSION,
    OPT_WATCH, OPT_CPU, OPT_SINCE
};

static const struct option long_options[] = {
    { "mode", required_argument, NULL, 'm' },
    { "connections", required_argument, NULL, 'c' },
    { "depth", required_argument, NULL, 'q' },
    { "block", required_argument, NULL, 'b' },
    { "sequential", no_argument, NULL, 's' },
    { "seconds", required_argument, NULL, 't' },
    { "warm-up", required_argument, NULL, 'w' },
    { "export", required_argument, NULL, 'e' },
    { "exports", required_argument, NULL, OPT_EXPORTS },
    { "span", required_argument, NULL, OPT_SPAN },
    { "verify", no_argument, NULL, OPT_VERIFY },
    { "no-coalesce", no_argument, NULL, OPT_NO_COALESCE },
    { "burst", no_argument, NULL, OPT_BURST },
    { "lean", no_argument, NULL, OPT_LEAN },
    { "session", required_argument, NULL, OPT_SESSION },
    { "watch", no_argument, NULL, OPT_WATCH },
    { "cpu", required_argument, NULL, OPT_CPU },
    { "since", required_argument, NULL, OPT_SINCE },
    { "help", no_argument, NULL, 'h' },
    { NULL, 0, NULL, 0 },
};

static const struct {
    const char *name;
    void (*run)(const struct options *options);
} modes[N_MODES] = {
    [MODE_READ] = { "read", load },
    [MODE_WRITE] = { "write", load },
    [MODE_MIX] = { "mix", load },
    [MODE_TRIM] = { "trim", load },
    [MODE_ZERO] = { "zero", load },
    [MODE_FLUSH] = { "flush", load },
    [MODE_WFLUSH] = { "wflush", load },
    [MODE_FUA] = { "fua", load },
    [MODE_CONNECT] = { "connect", probe_connect },
    [MODE_IDLE] = { "idle", probe_idle },
    [MODE_STATUS] = { "status", probe_status },
    [MODE_FIRST] = { "first", probe_first },
    [MODE_FILL] = { "fill", file_fill },
    [MODE_CHECK] = { "check", file_check },
};

static enum mode mode_named(const char *name)
{
    for (int i = 0; i < N_MODES; i++)
        if (strcmp(modes[i].name, name) == 0)
            return (enum mode)i;
    die("there is no mode \"%s\"; see nbdload --help", name);
}

static uint64_t number(const char *text, uint64_t low, uint64_t high)
{
    guint64 value;

    if (!g_ascii_string_to_unsigned(text, 10, low, high, &value, NULL))
        die("\"%s\" is not a number from %llu to %llu", text, (unsigned long long)low,
            (unsigned long long)high);
    return value;
}

static double seconds(const char *text)
{
    char *end;
    double value = g_ascii_strtod(text, &end);

    if (end == text || *end != '\0' || !(value >= 0 && value <= SECONDS_MAX))
        die("\"%s\" is not a number of seconds up to %d", text, SECONDS_MAX);
    return value;
}

static void take_option(int c, struct options *o)
{
    switch (c) {
    case 'm': o->mode = mode_named(optarg); break;
    case 'c': o->connections = (unsigned)number(optarg, 1, 100000); break;
    case 'q': o->depth = (unsigned)number(optarg, 1, 65536); break;
    case 'b': o->block = (uint32_t)number(optarg, 1, 64u << 20); break;
    case 's': o->sequential = true; break;
    case 't': o->seconds = seconds(optarg); break;
    case 'w': o->warm_up_s = seconds(optarg); break;
    case 'e': o->export = optarg; break;
    case OPT_EXPORTS: o->exports = (unsigned)number(optarg, 1, 1000000); break;
    case OPT_SPAN: o->span = number(optarg, 1, INT64_MAX); break;
    case OPT_VERIFY: o->verify = true; break;
    case OPT_NO_COALESCE: o->no_coalesce = true; break;
    case OPT_BURST: o->burst = true; break;
    case OPT_LEAN: o->lean = true; break;
    case OPT_SESSION: o->session = (int)number(optarg, 1, INT32_MAX); break;
    case OPT_WATCH: o->watch = true; break;
    case OPT_CPU: o->cpu = (int)number(optarg, 0, CPU_SETSIZE - 1); break;
    case OPT_SINCE: o->since_ns = number(optarg, 0, INT64_MAX); break;
    case 'h': fputs(usage, stdout); exit(EXIT_SUCCESS);
    default: exit(2);
    }
}

static void run_on(int cpu)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET((unsigned)cpu, &set);
    if (sched_setaffinity(0, sizeof(set), &set) < 0)
        die("there is no CPU %d to run on", cpu);
}

static void allow_many_files(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

int main(int argc, char **argv)
{
    struct options options = {
        .export = "", .connections = 1, .depth = 1, .block = 4096, .seconds = 2,
        .warm_up_s = 0.3, .cpu = -1,
    };
    int c;

    while ((c = getopt_long(argc, argv, "m:c:q:b:st:w:e:h", long_options, NULL)) != -1)
        take_option(c, &options);
    if (optind + 1 != argc)
        die("one address is needed; see nbdload --help");
    options.address = argv[optind];
    if (options.cpu >= 0)
        run_on(options.cpu);
    allow_many_files();
    alarm((unsigned)(options.seconds + options.warm_up_s) + OVERTIME_S);
    modes[options.mode].run(&options);
    return 0;
}
