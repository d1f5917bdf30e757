/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Records and calls over a socket pair, as scripted bytes.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "log.h"
#include "rpc/rpc_nbd.h"
#include "rpc_server.h"

#define TEST_PROGRAM 0x20000001u
#define TEST_VERSION 2u
#define PATIENCE_MS 3000
#define LAST 0x80000000u

enum { ECHO = 1, LATER = 3, BIG = 4 }; /* 2 is a gap */

struct fixture {
    struct loop *loop;
    struct rpc_server *server;
    int fd;             /* the peer's end */
    GByteArray *in;     /* what it has received */
    GQueue waiting;     /* struct rpc_call *, of LATER */
    unsigned gone, started;
    char echoed[NR_NAME_MAX + 1];
};

/* ---- The procedures ---- */

static bool_t xdr_no_result(XDR *xdrs, ...)
{
    (void)xdrs;
    return TRUE;
}

static void start_null(struct rpc_call *call, void *args, void *arg)
{
    (void)args;
    (void)arg;
    rpc_reply(call, NULL);
}

static void start_echo(struct rpc_call *call, void *args, void *arg)
{
    struct fixture *f = arg;
    nr_name_args *a = args;

    f->started++;
    g_strlcpy(f->echoed, a->name, sizeof(f->echoed));
    rpc_reply(call, a);
}

static void on_gone(void *arg)
{
    struct fixture *f = arg;

    f->gone++;
    g_queue_pop_head(&f->waiting);
}

static void start_later(struct rpc_call *call, void *args, void *arg)
{
    struct fixture *f = arg;

    (void)args;
    f->started++;
    g_queue_push_tail(&f->waiting, call);
    rpc_call_on_gone(call, on_gone, f);
}

/* 300 kB. */
static void start_big(struct rpc_call *call, void *args, void *arg)
{
    static char message[NR_MSG_MAX + 1];
    nr_jobs_res result = { .code = NR_OK };
    nr_jobs_ok *ok = &result.nr_jobs_res_u.jobs;

    (void)args;
    (void)arg;
    memset(message, 'x', NR_MSG_MAX);
    ok->rows.rows_len = NR_PAGE_MAX;
    ok->rows.rows_val = g_new0(nr_job, NR_PAGE_MAX);
    for (int i = 0; i < NR_PAGE_MAX; i++) {
        ok->rows.rows_val[i].id = (char *)"";
        ok->rows.rows_val[i].export_name = (char *)"";
        ok->rows.rows_val[i].last_error.message = message;
    }
    rpc_reply(call, &result);
    g_free(ok->rows.rows_val);
}

static void refuse(struct rpc_call *call, void *arg)
{
    nr_name_args result = {
        .name = (char *)(rpc_call_standing(call) == RPC_NOT_ALLOWED ? "you may not"
                                                                     : "too many"),
    };

    (void)arg;
    rpc_reply_as(call, (xdrproc_t)xdr_nr_name_args, &result);
}

static const struct rpc_procedure procedures[] = {
    [0] = { .name = "NULL", .encode_result = xdr_no_result, .start = start_null },
    [ECHO] = { .name = "ECHO", .decode_args = (xdrproc_t)xdr_nr_name_args,
               .args_size = sizeof(nr_name_args), .encode_result = (xdrproc_t)xdr_nr_name_args,
               .start = start_echo },
    [LATER] = { .name = "LATER", .encode_result = xdr_no_result, .start = start_later },
    [BIG] = { .name = "BIG", .encode_result = (xdrproc_t)xdr_nr_jobs_res, .start = start_big },
};

/* ---- The fixture ---- */

/* Another peer of the same server. */
static int connect_peer(struct fixture *f, bool allowed)
{
    int pair[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair),
                     0);
    rpc_server_accept(f->server, pair[1], "unix:1", allowed);
    return pair[0];
}

static void start_server(struct fixture *f, unsigned record_timeout_s, unsigned idle_timeout_s,
                         bool allowed)
{
    struct rpc_program program = {
        .program = TEST_PROGRAM, .version = TEST_VERSION, .procedures = procedures,
        .n_procedures = G_N_ELEMENTS(procedures), .refuse = refuse, .arg = f,
    };
    struct rpc_limits limits = {
        .max_clients = 4, .record_bytes = 4096, .record_timeout_s = record_timeout_s,
        .idle_timeout_s = idle_timeout_s,
    };

    f->server = rpc_server_new(f->loop, &program, &limits);
    f->fd = connect_peer(f, allowed);
}

static struct fixture *fixture_new(void)
{
    struct fixture *f = g_new0(struct fixture, 1);

    log_set_level(NBD_LOG_ERROR);
    f->loop = loop_new();
    assert_non_null(f->loop);
    f->in = g_byte_array_new();
    g_queue_init(&f->waiting);
    return f;
}

static int set_up(void **state)
{
    struct fixture *f = *state = fixture_new();

    start_server(f, 10, 300, true);
    return 0;
}

static int set_up_refused(void **state)
{
    struct fixture *f = *state = fixture_new();

    start_server(f, 10, 300, false);
    return 0;
}

static int set_up_hasty(void **state)
{
    struct fixture *f = *state = fixture_new();

    start_server(f, 1, 1, true);
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    rpc_server_free(f->server);
    close(f->fd);
    loop_free(f->loop);
    g_byte_array_unref(f->in);
    g_queue_clear(&f->waiting);
    g_free(f);
    return 0;
}

static void turn(struct fixture *f)
{
    event_base_loop(loop_base(f->loop), EVLOOP_NONBLOCK);
}

/* Runs the loop for a while. */
static void run_for(struct fixture *f, unsigned ms)
{
    event_base_loopexit(loop_base(f->loop),
                        &(struct timeval){ .tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000 });
    event_base_dispatch(loop_base(f->loop));
}

/* ---- The peer ---- */

static void send_bytes(struct fixture *f, const void *data, size_t length)
{
    const uint8_t *bytes = data;

    for (int tries = 0; length > 0 && tries < PATIENCE_MS; tries++) {
        ssize_t n = write(f->fd, bytes, length);

        if (n > 0) {
            bytes += n;
            length -= (size_t)n;
        }
        turn(f);
    }
    assert_int_equal(length, 0);
}

static void append_word(GByteArray *array, uint32_t word)
{
    word = htonl(word);
    g_byte_array_append(array, (const guint8 *)&word, sizeof(word));
}

static void append_string(GByteArray *array, const char *text)
{
    static const guint8 zeroes[4];
    size_t length = strlen(text);

    append_word(array, (uint32_t)length);
    g_byte_array_append(array, (const guint8 *)text, (guint)length);
    g_byte_array_append(array, zeroes, (guint)(-length & 3));
}

/* A call without the record's header. */
static GByteArray *call_of(uint32_t xid, uint32_t program, uint32_t version,
                           uint32_t procedure)
{
    GByteArray *call = g_byte_array_new();
    const uint32_t words[] = { xid, 0, 2, program, version, procedure, 0, 0, 0, 0 };

    for (size_t i = 0; i < G_N_ELEMENTS(words); i++)
        append_word(call, words[i]);
    return call;
}

static GByteArray *echo_of(uint32_t xid, const char *text)
{
    GByteArray *call = call_of(xid, TEST_PROGRAM, TEST_VERSION, ECHO);

    append_string(call, text);
    return call;
}

static void send_header(struct fixture *f, uint32_t header)
{
    header = htonl(header);
    send_bytes(f, &header, sizeof(header));
}

/* Takes the call. */
static void send_record(struct fixture *f, GByteArray *call)
{
    send_header(f, LAST | call->len);
    send_bytes(f, call->data, call->len);
    g_byte_array_unref(call);
}

static bool receive_some(struct fixture *f)
{
    guint8 bytes[65536];
    ssize_t n = read(f->fd, bytes, sizeof(bytes));

    if (n > 0)
        g_byte_array_append(f->in, bytes, (guint)n);
    return n != 0;
}

static uint32_t word_at(const GByteArray *array, guint offset)
{
    uint32_t word;

    assert_true(offset + 4 <= array->len);
    memcpy(&word, array->data + offset, 4);
    return ntohl(word);
}

/* The next whole reply without its header; the caller unrefs it. */
static GByteArray *await_reply(struct fixture *f)
{
    GByteArray *reply = g_byte_array_new();
    guint length;

    for (int i = 0; i < PATIENCE_MS; i++) {
        turn(f);
        receive_some(f);
        if (f->in->len >= 4 && f->in->len - 4 >= (length = word_at(f->in, 0) & ~LAST)) {
            assert_true(word_at(f->in, 0) & LAST);
            g_byte_array_append(reply, f->in->data + 4, length);
            g_byte_array_remove_range(f->in, 0, length + 4);
            return reply;
        }
        g_usleep(1000);
    }
    fail_msg("no reply");
    return reply;
}

static void expect_accepted(struct fixture *f, uint32_t xid, uint32_t stat)
{
    g_autoptr(GByteArray) reply = await_reply(f);

    assert_int_equal(word_at(reply, 0), xid);
    assert_int_equal(word_at(reply, 4), 1); /* REPLY */
    assert_int_equal(word_at(reply, 8), 0); /* MSG_ACCEPTED */
    assert_int_equal(word_at(reply, 20), stat);
}

static void expect_echo(struct fixture *f, uint32_t xid, const char *text)
{
    g_autoptr(GByteArray) reply = await_reply(f);

    assert_int_equal(word_at(reply, 0), xid);
    assert_int_equal(word_at(reply, 20), 0); /* SUCCESS */
    assert_int_equal(word_at(reply, 24), strlen(text));
    assert_memory_equal(reply->data + 28, text, strlen(text));
}

static void expect_closed(struct fixture *f)
{
    for (int i = 0; i < PATIENCE_MS; i++) {
        turn(f);
        if (!receive_some(f))
            return;
        g_usleep(1000);
    }
    fail_msg("the server did not close");
}

static void expect_silence(struct fixture *f)
{
    for (int i = 0; i < 20; i++) {
        turn(f);
        assert_true(receive_some(f));
        assert_int_equal(f->in->len, 0);
        g_usleep(1000);
    }
}

/* ---- Records ---- */

static void a_call_is_answered(void **state)
{
    struct fixture *f = *state;

    send_record(f, echo_of(7, "disk1"));
    expect_echo(f, 7, "disk1");
    send_record(f, call_of(8, TEST_PROGRAM, TEST_VERSION, 0));
    expect_accepted(f, 8, SUCCESS);
    assert_int_equal(rpc_server_clients(f->server), 1);
}

static void a_record_may_come_byte_by_byte(void **state)
{
    struct fixture *f = *state;
    g_autoptr(GByteArray) call = echo_of(7, "disk1");

    send_header(f, LAST | call->len);
    for (guint i = 0; i < call->len; i++) {
        assert_int_equal(f->started, 0);
        send_bytes(f, call->data + i, 1);
    }
    expect_echo(f, 7, "disk1");
}

static void a_record_may_come_in_many_fragments(void **state)
{
    struct fixture *f = *state;
    g_autoptr(GByteArray) call = echo_of(7, "disk1");

    for (guint i = 0; i < call->len; i++) {
        send_header(f, 1);
        send_bytes(f, call->data + i, 1);
    }
    expect_silence(f);
    send_header(f, LAST | 0);
    expect_echo(f, 7, "disk1");
}

static void several_records_may_come_at_once(void **state)
{
    struct fixture *f = *state;
    GByteArray *all = g_byte_array_new();

    for (uint32_t xid = 0; xid < 100; xid++) {
        g_autoptr(GByteArray) call = echo_of(xid, "x");

        append_word(all, LAST | call->len);
        g_byte_array_append(all, call->data, call->len);
    }
    send_bytes(f, all->data, all->len);
    g_byte_array_unref(all);
    for (uint32_t xid = 0; xid < 100; xid++)
        expect_echo(f, xid, "x");
}

static void a_fragment_of_two_gigabytes_ends_the_connection_at_once(void **state)
{
    struct fixture *f = *state;

    send_header(f, 0xffffffffu);
    expect_closed(f);
}

static void fragments_that_sum_up_to_too_much_end_the_connection(void **state)
{
    static const uint8_t zeroes[4000];
    struct fixture *f = *state;

    send_header(f, sizeof(zeroes));
    send_bytes(f, zeroes, sizeof(zeroes));
    send_header(f, 97);
    expect_closed(f);
}

static void endless_empty_fragments_end_the_connection(void **state)
{
    static const uint8_t zeroes[4 * 4097];
    struct fixture *f = *state;

    send_bytes(f, zeroes, sizeof(zeroes));
    expect_closed(f);
}

static void half_a_record_ends_by_its_time_limit(void **state)
{
    struct fixture *f = *state;
    int64_t start = g_get_monotonic_time();

    send_header(f, LAST | 100);
    for (int i = 0; i < 6; i++) {
        send_bytes(f, "x", 1); /* progress does not buy time */
        run_for(f, 150);
    }
    expect_closed(f);
    assert_true(g_get_monotonic_time() - start < 2500000);
}

static void an_idle_peer_is_closed(void **state)
{
    struct fixture *f = *state;

    send_record(f, echo_of(1, "x"));
    expect_echo(f, 1, "x");
    run_for(f, 1200);
    expect_closed(f);
}

static void a_peer_that_waits_for_an_answer_is_not_idle(void **state)
{
    struct fixture *f = *state;

    send_record(f, call_of(1, TEST_PROGRAM, TEST_VERSION, LATER));
    run_for(f, 1300);
    rpc_reply(g_queue_pop_head(&f->waiting), NULL);
    expect_accepted(f, 1, SUCCESS);
}

/* ---- Headers ---- */

static void a_reply_ends_the_connection(void **state)
{
    struct fixture *f = *state;
    GByteArray *reply = g_byte_array_new();

    for (uint32_t i = 0; i < 6; i++)
        append_word(reply, i == 1 ? 1 : 0);
    send_record(f, reply);
    expect_closed(f);
}

static void garbage_ends_the_connection(void **state)
{
    static const char http[] = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    struct fixture *f = *state;

    send_bytes(f, http, sizeof(http) - 1);
    expect_closed(f);
}

static void a_record_too_short_for_a_call_ends_the_connection(void **state)
{
    struct fixture *f = *state;

    send_header(f, LAST | 0);
    expect_closed(f);
}

static void another_version_of_rpc_is_denied(void **state)
{
    struct fixture *f = *state;
    GByteArray *call = call_of(7, TEST_PROGRAM, TEST_VERSION, 0);
    GByteArray *reply;

    call->data[11] = 3;
    send_record(f, call);
    reply = await_reply(f);
    assert_int_equal(word_at(reply, 0), 7);
    assert_int_equal(word_at(reply, 8), 1);  /* MSG_DENIED */
    assert_int_equal(word_at(reply, 12), 0); /* RPC_MISMATCH */
    assert_int_equal(word_at(reply, 16), 2);
    assert_int_equal(word_at(reply, 20), 2);
    g_byte_array_unref(reply);
}

static void another_program_version_or_procedure_is_answered_so(void **state)
{
    struct fixture *f = *state;
    GByteArray *reply;

    send_record(f, call_of(1, TEST_PROGRAM + 1, TEST_VERSION, 0));
    expect_accepted(f, 1, PROG_UNAVAIL);
    send_record(f, call_of(2, TEST_PROGRAM, TEST_VERSION, 2));
    expect_accepted(f, 2, PROC_UNAVAIL);
    send_record(f, call_of(3, TEST_PROGRAM, TEST_VERSION, 4000000000u));
    expect_accepted(f, 3, PROC_UNAVAIL);
    send_record(f, call_of(4, TEST_PROGRAM, 1, 2));
    reply = await_reply(f);
    assert_int_equal(word_at(reply, 20), PROG_MISMATCH);
    assert_int_equal(word_at(reply, 24), TEST_VERSION);
    assert_int_equal(word_at(reply, 28), TEST_VERSION);
    g_byte_array_unref(reply);
}

static void credentials_are_ignored(void **state)
{
    struct fixture *f = *state;
    GByteArray *call = g_byte_array_new();
    const uint32_t words[] = { 9, 0, 2, TEST_PROGRAM, TEST_VERSION, ECHO, 1 };

    for (size_t i = 0; i < G_N_ELEMENTS(words); i++)
        append_word(call, words[i]);
    append_string(call, "any credential");
    append_word(call, 77);
    append_string(call, "any verifier, of any flavour");
    append_string(call, "disk1");
    send_record(f, call);
    expect_echo(f, 9, "disk1");
}

static void a_credential_that_is_too_long_is_denied(void **state)
{
    struct fixture *f = *state;
    GByteArray *call = g_byte_array_new();
    g_autofree char *credential = g_strnfill(404, 'c');
    const uint32_t words[] = { 9, 0, 2, TEST_PROGRAM, TEST_VERSION, ECHO, 1 };
    GByteArray *reply;

    for (size_t i = 0; i < G_N_ELEMENTS(words); i++)
        append_word(call, words[i]);
    append_string(call, credential);
    append_word(call, 0);
    append_word(call, 0);
    append_string(call, "disk1");
    send_record(f, call);
    reply = await_reply(f);
    assert_int_equal(word_at(reply, 8), 1);  /* MSG_DENIED */
    assert_int_equal(word_at(reply, 12), 1); /* AUTH_ERROR */
    g_byte_array_unref(reply);
}

/* ---- Arguments ---- */

static void arguments_that_do_not_fit_are_garbage(void **state)
{
    struct fixture *f = *state;
    g_autofree char *long_name = g_strnfill(NR_NAME_MAX + 1, 'n');
    GByteArray *call;

    send_record(f, call_of(1, TEST_PROGRAM, TEST_VERSION, ECHO));
    expect_accepted(f, 1, GARBAGE_ARGS);

    send_record(f, echo_of(2, long_name));
    expect_accepted(f, 2, GARBAGE_ARGS);

    call = call_of(3, TEST_PROGRAM, TEST_VERSION, ECHO);
    append_word(call, 0xfffffffeu);
    send_record(f, call);
    expect_accepted(f, 3, GARBAGE_ARGS);

    call = echo_of(4, "disk1");
    append_word(call, 0);
    send_record(f, call);
    expect_accepted(f, 4, GARBAGE_ARGS);

    call = call_of(5, TEST_PROGRAM, TEST_VERSION, 0);
    append_word(call, 0);
    send_record(f, call);
    expect_accepted(f, 5, GARBAGE_ARGS);

    assert_int_equal(f->started, 0);
    send_record(f, echo_of(6, "still here"));
    expect_echo(f, 6, "still here");
}

static void a_string_with_a_nul_inside_is_garbage(void **state)
{
    struct fixture *f = *state;
    GByteArray *call = echo_of(1, "abcdef");

    call->data[call->len - 6] = '\0';
    send_record(f, call);
    expect_accepted(f, 1, GARBAGE_ARGS);

    call = echo_of(2, "abcd");
    call->data[call->len - 1] = '\0';
    send_record(f, call);
    expect_accepted(f, 2, GARBAGE_ARGS);
}

/* ---- Calls that take time ---- */

static void answers_may_come_out_of_order(void **state)
{
    struct fixture *f = *state;

    send_record(f, call_of(1, TEST_PROGRAM, TEST_VERSION, LATER));
    send_record(f, call_of(2, TEST_PROGRAM, TEST_VERSION, LATER));
    send_record(f, echo_of(3, "now"));
    expect_echo(f, 3, "now");

    rpc_reply(g_queue_pop_tail(&f->waiting), NULL);
    rpc_reply(g_queue_pop_head(&f->waiting), NULL);
    expect_accepted(f, 2, SUCCESS);
    expect_accepted(f, 1, SUCCESS);
}

static void a_caller_that_leaves_is_told_once(void **state)
{
    struct fixture *f = *state;

    send_record(f, call_of(1, TEST_PROGRAM, TEST_VERSION, LATER));
    send_record(f, call_of(2, TEST_PROGRAM, TEST_VERSION, LATER));
    run_for(f, 20);
    assert_int_equal(f->waiting.length, 2);
    shutdown(f->fd, SHUT_RDWR);
    run_for(f, 20);

    assert_int_equal(f->gone, 2);
    assert_int_equal(rpc_server_clients(f->server), 0);
}

static void the_server_may_end_while_callers_wait(void **state)
{
    struct fixture *f = *state;

    send_record(f, call_of(1, TEST_PROGRAM, TEST_VERSION, LATER));
    run_for(f, 20);
    assert_int_equal(f->waiting.length, 1);
    rpc_server_free(f->server);
    f->server = NULL;

    assert_int_equal(f->gone, 1);
}

static void more_calls_than_the_limit_wait_for_answers(void **state)
{
    struct fixture *f = *state;
    GByteArray *all = g_byte_array_new();

    for (uint32_t xid = 0; xid < RPC_CALLS_MAX + 10; xid++) {
        g_autoptr(GByteArray) call = call_of(xid, TEST_PROGRAM, TEST_VERSION, LATER);

        append_word(all, LAST | call->len);
        g_byte_array_append(all, call->data, call->len);
    }
    send_bytes(f, all->data, all->len);
    g_byte_array_unref(all);
    run_for(f, 50);
    assert_int_equal(f->started, RPC_CALLS_MAX);

    /* The rest is in the server's buffer: no socket event will come for it. */
    for (uint32_t xid = 0; xid < RPC_CALLS_MAX + 10; xid++) {
        if (f->waiting.length == 0)
            run_for(f, 20);
        rpc_reply(g_queue_pop_head(&f->waiting), NULL);
        expect_accepted(f, xid, SUCCESS);
    }
    assert_int_equal(f->started, RPC_CALLS_MAX + 10);
}

static void a_peer_that_takes_no_answers_is_not_read(void **state)
{
    struct fixture *f = *state;
    int size = 4096;
    unsigned sent = 0, received = 0;

    setsockopt(f->fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
    /* Until nothing more is taken from us. */
    for (int idle = 0; idle < 20 && sent < 100000; idle++) {
        g_autoptr(GByteArray) record = g_byte_array_new();
        g_autoptr(GByteArray) call = call_of(sent, TEST_PROGRAM, TEST_VERSION, BIG);

        append_word(record, LAST | call->len);
        g_byte_array_append(record, call->data, call->len);
        if (write(f->fd, record->data, record->len) == (ssize_t)record->len) {
            sent++;
            idle = 0;
        }
        turn(f);
    }
    assert_true(sent < 100000);

    for (; received < sent; received++) {
        g_autoptr(GByteArray) reply = await_reply(f);

        assert_int_equal(word_at(reply, 0), received);
        assert_true(reply->len > 250000);
        if (received == 20) /* that will do */
            break;
    }
    assert_int_equal(rpc_server_clients(f->server), 1);
}

/* ---- Who may not call ---- */

static void a_refused_peer_is_told_why_a_few_times(void **state)
{
    struct fixture *f = *state;

    send_record(f, call_of(1, TEST_PROGRAM, TEST_VERSION, 0));
    expect_accepted(f, 1, SUCCESS);
    send_record(f, call_of(2, TEST_PROGRAM, 1, 0));
    expect_accepted(f, 2, PROG_MISMATCH);
    for (uint32_t xid = 3; xid < 11; xid++) {
        send_record(f, echo_of(xid, "disk1"));
        expect_echo(f, xid, "you may not");
    }
    assert_int_equal(f->started, 0);
    assert_int_equal(rpc_server_clients(f->server), 0);

    send_record(f, echo_of(11, "disk1"));
    expect_closed(f);
}

static void surplus_peers_are_told_so_and_then_closed(void **state)
{
    struct fixture *f = *state;
    int others[64], surplus;

    for (int i = 0; i < 64; i++)
        others[i] = connect_peer(f, true);
    run_for(f, 20);
    assert_int_equal(rpc_server_clients(f->server), 4);

    surplus = 3 + RPC_SURPLUS_MAX; /* with the fixture's own, the first beyond both limits */
    assert_int_equal(read(others[surplus], &(char){ 0 }, 1), 0);
    close(f->fd);
    f->fd = others[surplus - 1];
    send_record(f, echo_of(1, "disk1"));
    expect_echo(f, 1, "too many");

    for (int i = 0; i < 64; i++)
        if (others[i] != f->fd)
            close(others[i]);
    run_for(f, 20);
    assert_int_equal(rpc_server_clients(f->server), 0);
}

static void refused_peers_are_bounded_in_number(void **state)
{
    struct fixture *f = *state;
    int others[RPC_REFUSED_MAX];

    for (int i = 0; i < RPC_REFUSED_MAX; i++)
        others[i] = connect_peer(f, false);
    run_for(f, 20);

    assert_int_equal(read(others[RPC_REFUSED_MAX - 1], &(char){ 0 }, 1), 0);
    assert_int_equal(read(others[0], &(char){ 0 }, 1), -1);
    for (int i = 0; i < RPC_REFUSED_MAX; i++)
        close(others[i]);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_call_is_answered),
        TEST(a_record_may_come_byte_by_byte),
        TEST(a_record_may_come_in_many_fragments),
        TEST(several_records_may_come_at_once),
        TEST(a_fragment_of_two_gigabytes_ends_the_connection_at_once),
        TEST(fragments_that_sum_up_to_too_much_end_the_connection),
        TEST(endless_empty_fragments_end_the_connection),
        cmocka_unit_test_setup_teardown(half_a_record_ends_by_its_time_limit, set_up_hasty,
                                        tear_down),
        cmocka_unit_test_setup_teardown(an_idle_peer_is_closed, set_up_hasty, tear_down),
        cmocka_unit_test_setup_teardown(a_peer_that_waits_for_an_answer_is_not_idle,
                                        set_up_hasty, tear_down),
        TEST(a_reply_ends_the_connection),
        TEST(garbage_ends_the_connection),
        TEST(a_record_too_short_for_a_call_ends_the_connection),
        TEST(another_version_of_rpc_is_denied),
        TEST(another_program_version_or_procedure_is_answered_so),
        TEST(credentials_are_ignored),
        TEST(a_credential_that_is_too_long_is_denied),
        TEST(arguments_that_do_not_fit_are_garbage),
        TEST(a_string_with_a_nul_inside_is_garbage),
        TEST(answers_may_come_out_of_order),
        TEST(a_caller_that_leaves_is_told_once),
        TEST(the_server_may_end_while_callers_wait),
        TEST(more_calls_than_the_limit_wait_for_answers),
        TEST(a_peer_that_takes_no_answers_is_not_read),
        cmocka_unit_test_setup_teardown(a_refused_peer_is_told_why_a_few_times, set_up_refused,
                                        tear_down),
        TEST(surplus_peers_are_told_so_and_then_closed),
        cmocka_unit_test_setup_teardown(refused_peers_are_bounded_in_number, set_up_refused,
                                        tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
