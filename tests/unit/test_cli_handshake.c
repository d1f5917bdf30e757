/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * The client's side of the NBD handshake against a peer that says what the test wants: its
 * bytes are written beforehand, ours are read afterwards.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <endian.h>
#include <fcntl.h>
#include <glib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "handshake.h"
#include "net.h"

#include "nbd_protocol.h"

struct peer {
    int ours, theirs;
    GByteArray *script;
    struct terms terms;
    struct failure why;
};

static int make_peer(void **state)
{
    struct peer *peer = g_new0(struct peer, 1);
    int pair[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
    peer->ours = pair[0];
    peer->theirs = pair[1];
    peer->script = g_byte_array_new();
    *state = peer;
    return 0;
}

static int free_peer(void **state)
{
    struct peer *peer = *state;

    close(peer->ours);
    if (peer->theirs >= 0)
        close(peer->theirs);
    g_byte_array_free(peer->script, TRUE);
    g_free(peer);
    return 0;
}

static void say(struct peer *peer, const void *data, size_t length)
{
    g_byte_array_append(peer->script, data, (guint)length);
}

static void say_greeting(struct peer *peer, uint16_t flags)
{
    struct nbd_greeting greeting = {htobe64(NBD_MAGIC), htobe64(NBD_IHAVEOPT), htobe16(flags)};

    say(peer, &greeting, sizeof(greeting));
}

/* A reply that claims `length` bytes of data and sends `sent` of them. */
static void say_reply(struct peer *peer, uint32_t type, const void *data, uint32_t length,
                      size_t sent)
{
    struct nbd_option_reply reply = {
        .magic = htobe64(NBD_REPLY_MAGIC),
        .option = htobe32(NBD_OPT_GO),
        .type = htobe32(type),
        .length = htobe32(length),
    };

    say(peer, &reply, sizeof(reply));
    say(peer, data, sent);
}

static void say_export(struct peer *peer, uint64_t size, uint16_t flags)
{
    struct nbd_info_export info = {htobe16(NBD_INFO_EXPORT), htobe64(size), htobe16(flags)};

    say_reply(peer, NBD_REP_INFO, &info, sizeof(info), sizeof(info));
}

static void say_block_size(struct peer *peer, uint32_t min, uint32_t preferred, uint32_t max)
{
    struct nbd_info_block_size info = {htobe16(NBD_INFO_BLOCK_SIZE), htobe32(min),
                                       htobe32(preferred), htobe32(max)};

    say_reply(peer, NBD_REP_INFO, &info, sizeof(info), sizeof(info));
}

static void say_ack(struct peer *peer)
{
    say_reply(peer, NBD_REP_ACK, "", 0, 0);
}

static int negotiate(struct peer *peer, const char *name)
{
    assert_int_equal(write(peer->theirs, peer->script->data, peer->script->len),
                     peer->script->len);
    return handshake(peer->ours, name, deadline_in_ms(100), "the server", &peer->terms,
                     &peer->why);
}

static void expect_failure(struct peer *peer, enum status status, const char *sentence)
{
    int r = negotiate(peer, "disk");

    if (r != (int)status || strstr(peer->why.message, sentence) == NULL)
        fail_msg("%d: %s", r, peer->why.message);
}

static void the_terms_of_the_server_are_taken(void **state)
{
    struct peer *peer = *state;
    uint8_t sent[4 + 16 + 4 + 4 + 4];

    say_greeting(peer, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
    say_export(peer, UINT64_C(5) << 40, NBD_FLAG_HAS_FLAGS | NBD_FLAG_CAN_MULTI_CONN);
    say_block_size(peer, 512, 4096, 32 << 20);
    say_ack(peer);

    assert_int_equal(negotiate(peer, "disk"), 0);
    assert_true(peer->terms.size_bytes == UINT64_C(5) << 40);
    assert_int_equal(peer->terms.flags, NBD_FLAG_HAS_FLAGS | NBD_FLAG_CAN_MULTI_CONN);
    assert_int_equal(peer->terms.block_min, 512);
    assert_int_equal(peer->terms.block_max, 32 << 20);
    assert_int_equal(read(peer->theirs, sent, sizeof(sent)), sizeof(sent));
    assert_memory_equal(sent, "\0\0\0\3" "IHAVEOPT" "\0\0\0\7" "\0\0\0\14" "\0\0\0\4" "disk"
                              "\0\1\0\3", sizeof(sent));
    assert_int_equal(read(peer->theirs, sent, 1), -1); /* nothing more */
}

static void no_zeroes_is_asked_for_only_where_offered(void **state)
{
    struct peer *peer = *state;
    uint8_t sent[4];

    say_greeting(peer, NBD_FLAG_FIXED_NEWSTYLE);
    say_export(peer, 512, NBD_FLAG_HAS_FLAGS);
    say_ack(peer);

    assert_int_equal(negotiate(peer, ""), 0);
    assert_int_equal(peer->terms.block_min, 1);
    assert_int_equal(read(peer->theirs, sent, 4), 4);
    assert_memory_equal(sent, "\0\0\0\1", 4);
}

static void unknown_information_is_skipped(void **state)
{
    struct peer *peer = *state;

    say_greeting(peer, NBD_FLAG_FIXED_NEWSTYLE);
    say_reply(peer, NBD_REP_INFO, "\0\1name", 6, 6);
    say_reply(peer, NBD_REP_INFO, "\x77\x77", 2, 2);
    say_export(peer, 512, NBD_FLAG_HAS_FLAGS);
    say_ack(peer);

    assert_int_equal(negotiate(peer, "disk"), 0);
}

static void the_reason_of_a_refusal_is_told(void **state)
{
    struct peer *peer = *state;

    say_greeting(peer, NBD_FLAG_FIXED_NEWSTYLE);
    say_reply(peer, NBD_REP_ERR_UNKNOWN, "the lease is over", 17, 17);

    expect_failure(peer, STATUS_FAILED, "refuses export 'disk': the lease is over");
}

static void a_refusal_without_reason_is_explained(void **state)
{
    struct peer *peer = *state;

    say_greeting(peer, NBD_FLAG_FIXED_NEWSTYLE);
    say_reply(peer, NBD_REP_ERR_TLS_REQD, "", 0, 0);

    expect_failure(peer, STATUS_FAILED, "demands TLS");
}

static void another_protocol_is_recognised(void **state)
{
    struct peer *peer = *state;

    say(peer, "SSH-2.0-OpenSSH_9.2p1\r\n", 23);

    expect_failure(peer, STATUS_FAILED, "is no NBD server");
}

static void old_style_servers_are_refused(void **state)
{
    struct peer *peer = *state;
    struct nbd_greeting greeting = {htobe64(NBD_MAGIC), htobe64(0x00420281861253), 0};

    say(peer, &greeting, sizeof(greeting));

    expect_failure(peer, STATUS_FAILED, "fixed newstyle");
}

static void a_silent_server_is_not_waited_for_for_ever(void **state)
{
    struct peer *peer = *state;

    expect_failure(peer, STATUS_NO_ANSWER, "did not answer in time");
}

static void a_closed_connection_is_told(void **state)
{
    struct peer *peer = *state;

    say_greeting(peer, NBD_FLAG_FIXED_NEWSTYLE);
    assert_int_equal(write(peer->theirs, peer->script->data, peer->script->len),
                     peer->script->len);
    shutdown(peer->theirs, SHUT_WR);
    g_byte_array_set_size(peer->script, 0);
    assert_int_equal(handshake(peer->ours, "disk", deadline_in_ms(1000), "the server",
                               &peer->terms, &peer->why), STATUS_UNREACHABLE);
    assert_non_null(strstr(peer->why.message, "closed the connection"));
}

static void a_huge_reply_is_refused_before_it_is_read(void **state)
{
    struct peer *peer = *state;

    say_greeting(peer, NBD_FLAG_FIXED_NEWSTYLE);
    say_reply(peer, NBD_REP_INFO, "", 0xffffffff, 0);

    expect_failure(peer, STATUS_FAILED, "too long");
}

static void information_of_a_wrong_length_is_refused(void **state)
{
    struct peer *peer = *state;

    say_greeting(peer, NBD_FLAG_FIXED_NEWSTYLE);
    say_reply(peer, NBD_REP_INFO, "\0\0\0", 3, 3);

    expect_failure(peer, STATUS_FAILED, "wrong length");
}

static void information_without_a_type_is_refused(void **state)
{
    struct peer *peer = *state;

    say_greeting(peer, NBD_FLAG_FIXED_NEWSTYLE);
    say_reply(peer, NBD_REP_INFO, "\0", 1, 1);

    expect_failure(peer, STATUS_FAILED, "too short");
}

static void a_short_block_size_is_refused(void **state)
{
    struct peer *peer = *state;

    say_greeting(peer, NBD_FLAG_FIXED_NEWSTYLE);
    say_reply(peer, NBD_REP_INFO, "\0\3\0\0", 4, 4);

    expect_failure(peer, STATUS_FAILED, "wrong length");
}

static void block_sizes_must_make_sense(void **state)
{
    struct peer *peer = *state;

    say_greeting(peer, NBD_FLAG_FIXED_NEWSTYLE);
    say_block_size(peer, 513, 4096, 1 << 20);

    expect_failure(peer, STATUS_FAILED, "block sizes make no sense");
}

static void a_size_beyond_63_bits_is_refused(void **state)
{
    struct peer *peer = *state;

    say_greeting(peer, NBD_FLAG_FIXED_NEWSTYLE);
    say_export(peer, UINT64_C(1) << 63, NBD_FLAG_HAS_FLAGS);

    expect_failure(peer, STATUS_FAILED, "larger than 2^63-1");
}

static void an_end_without_a_size_is_refused(void **state)
{
    struct peer *peer = *state;

    say_greeting(peer, NBD_FLAG_FIXED_NEWSTYLE);
    say_ack(peer);

    expect_failure(peer, STATUS_FAILED, "does not tell the export's size");
}

static void endless_information_ends(void **state)
{
    struct peer *peer = *state;

    say_greeting(peer, NBD_FLAG_FIXED_NEWSTYLE);
    for (int i = 0; i < 100; i++)
        say_export(peer, 512, NBD_FLAG_HAS_FLAGS);

    expect_failure(peer, STATUS_FAILED, "never ends its answer");
}

static void an_answer_to_another_option_is_refused(void **state)
{
    struct peer *peer = *state;
    struct nbd_option_reply reply = {htobe64(NBD_REPLY_MAGIC), htobe32(NBD_OPT_LIST),
                                     htobe32(NBD_REP_ACK), 0};

    say_greeting(peer, NBD_FLAG_FIXED_NEWSTYLE);
    say(peer, &reply, sizeof(reply));

    expect_failure(peer, STATUS_FAILED, "does not answer the option");
}

/* Any cut, and any wrong byte, ends in a failure or in terms that were checked. */
static void damaged_bytes_do_no_harm(void **state)
{
    (void)state;

    for (unsigned i = 0; i < 84; i++) {
        void *one;
        struct peer *peer;
        int r;

        make_peer(&one);
        peer = one;
        say_greeting(peer, NBD_FLAG_FIXED_NEWSTYLE);
        say_export(peer, 1 << 20, NBD_FLAG_HAS_FLAGS);
        say_block_size(peer, 1, 4096, 1 << 20);
        peer->script->data[i % peer->script->len] ^= 0xff;
        assert_int_equal(write(peer->theirs, peer->script->data, peer->script->len),
                         peer->script->len);
        shutdown(peer->theirs, SHUT_WR);
        r = handshake(peer->ours, "disk", deadline_in_ms(1000), "the server", &peer->terms,
                      &peer->why);
        assert_int_not_equal(r, 0);
        free_peer(&one);
    }
}

static void the_kernel_gets_a_blocking_socket(void **state)
{
    struct peer *peer = *state;

    handshake_hand_over(peer->ours);

    assert_int_equal(fcntl(peer->ours, F_GETFL) & O_NONBLOCK, 0);
}

int main(void)
{
#define WITH_PEER(test) cmocka_unit_test_setup_teardown(test, make_peer, free_peer)
    const struct CMUnitTest tests[] = {
        WITH_PEER(the_terms_of_the_server_are_taken),
        WITH_PEER(no_zeroes_is_asked_for_only_where_offered),
        WITH_PEER(unknown_information_is_skipped),
        WITH_PEER(the_reason_of_a_refusal_is_told),
        WITH_PEER(a_refusal_without_reason_is_explained),
        WITH_PEER(another_protocol_is_recognised),
        WITH_PEER(old_style_servers_are_refused),
        WITH_PEER(a_silent_server_is_not_waited_for_for_ever),
        WITH_PEER(a_closed_connection_is_told),
        WITH_PEER(a_huge_reply_is_refused_before_it_is_read),
        WITH_PEER(information_of_a_wrong_length_is_refused),
        WITH_PEER(information_without_a_type_is_refused),
        WITH_PEER(a_short_block_size_is_refused),
        WITH_PEER(block_sizes_must_make_sense),
        WITH_PEER(a_size_beyond_63_bits_is_refused),
        WITH_PEER(an_end_without_a_size_is_refused),
        WITH_PEER(endless_information_ends),
        WITH_PEER(an_answer_to_another_option_is_refused),
        cmocka_unit_test(damaged_bytes_do_no_harm),
        WITH_PEER(the_kernel_gets_a_blocking_socket),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
