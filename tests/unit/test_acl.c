/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Lists of addresses and networks.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>
#include <sys/un.h>

#include "acl.h"

union address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

static union address address_of(const char *text)
{
    union address address = { 0 };

    if (inet_pton(AF_INET, text, &address.v4.sin_addr) == 1) {
        address.v4.sin_family = AF_INET;
    } else {
        assert_int_equal(inet_pton(AF_INET6, text, &address.v6.sin6_addr), 1);
        address.v6.sin6_family = AF_INET6;
    }
    return address;
}

static void an_address_is_in_the_networks_that_contain_it(void **state)
{
    static const struct {
        const char *network, *address;
        bool inside;
    } cases[] = {
        { "192.0.2.7", "192.0.2.7", true },
        { "192.0.2.7", "192.0.2.8", false },
        { "10.0.0.0/8", "10.255.255.255", true },
        { "10.0.0.0/8", "11.0.0.0", false },
        { "10.0.0.0/9", "10.127.0.1", true },
        { "10.0.0.0/9", "10.128.0.1", false },
        { "0.0.0.0/0", "203.0.113.9", true },
        { "0.0.0.0/0", "2001:db8::1", false },
        { "::/0", "2001:db8::1", true },
        { "::/0", "192.0.2.1", true },
        { "192.0.2.1/32", "192.0.2.1", true },
        { "192.0.2.1/31", "192.0.2.0", true },
        { "2001:db8::/32", "2001:db8:ffff::1", true },
        { "2001:db8::/32", "2001:db9::1", false },
        { "2001:db8::/33", "2001:db8:7fff::1", true },
        { "2001:db8::/33", "2001:db8:8000::1", false },
        { "::1", "::1", true },
        { "192.0.2.0/24", "::ffff:192.0.2.9", true },
        { "::ffff:192.0.2.0/120", "192.0.2.9", true },
        { "10.1.2.3/8", "10.200.0.1", true },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const char *entries[] = { "198.51.100.1", cases[i].network, NULL };
        union address address = address_of(cases[i].address);
        struct acl *acl;

        assert_int_equal(acl_new(entries, &acl, NULL), 0);
        if (acl_contains(acl, &address.any) != cases[i].inside)
            fail_msg("%s in %s should be %d", cases[i].address, cases[i].network,
                     cases[i].inside);
        acl_free(acl);
    }
}

static void junk_is_refused_and_named(void **state)
{
    static const char *const junk[] = {
        "", "/", "/8", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/8x", "10.0.0.0/+8",
        "10.0.0.0/ 8", "10.0.0", "10.0.0.256", "::1/129", "2001:db8::g", "localhost",
        "10.0.0.0/8/8", "10.0.0.0/0000000000000008", " 10.0.0.1", "[::1]",
        "11111111111111111111111111111111111111111111111111111111111111",
    };

    (void)state;
    for (size_t i = 0; i < sizeof(junk) / sizeof(junk[0]); i++) {
        const char *entries[] = { "10.0.0.1", junk[i], NULL };
        struct nbd_failure why = { 0 };
        struct acl *acl = NULL;

        if (acl_new(entries, &acl, &why) != -EINVAL)
            fail_msg("\"%s\" was accepted", junk[i]);
        assert_null(acl);
        assert_non_null(strstr(why.message, junk[i]));
    }
}

static void an_empty_list_contains_nobody(void **state)
{
    union address address = address_of("127.0.0.1");
    const char *none[] = { NULL };
    struct acl *acl;

    (void)state;
    assert_int_equal(acl_new(none, &acl, NULL), 0);
    assert_false(acl_contains(acl, &address.any));
    acl_free(acl);

    assert_int_equal(acl_new(NULL, &acl, NULL), 0);
    assert_false(acl_contains(acl, &address.any));
    acl_free(acl);
    acl_free(NULL);
}

static void a_unix_socket_is_in_no_network(void **state)
{
    const struct sockaddr_un address = { .sun_family = AF_UNIX };
    const char *all[] = { "0.0.0.0/0", "::/0", NULL };
    struct acl *acl;

    (void)state;
    assert_int_equal(acl_new(all, &acl, NULL), 0);
    assert_false(acl_contains(acl, (const struct sockaddr *)&address));
    assert_false(acl_is_loopback((const struct sockaddr *)&address));
    acl_free(acl);
}

static bool lets_in(const char *const *entries, bool default_deny, const char *text)
{
    union address address = address_of(text);
    struct acl *acl;
    bool allows;

    assert_int_equal(acl_new(entries, &acl, NULL), 0);
    acl_set_default_deny(acl, default_deny);
    assert_int_equal(acl_default_deny(acl), default_deny);
    allows = acl_allows(acl, &address.any);
    acl_free(acl);
    return allows;
}

static void with_entries_only_those_are_let_in(void **state)
{
    const char *entries[] = { "10.0.0.0/8", "2001:db8::/32", NULL };

    (void)state;
    for (int deny = 0; deny < 2; deny++) {
        assert_true(lets_in(entries, deny, "10.1.2.3"));
        assert_true(lets_in(entries, deny, "::ffff:10.1.2.3"));
        assert_true(lets_in(entries, deny, "2001:db8::1"));
        assert_false(lets_in(entries, deny, "11.0.0.1"));
        assert_false(lets_in(entries, deny, "127.0.0.1"));
        assert_false(lets_in(entries, deny, "::1"));
    }
}

static void without_entries_all_are_let_in_or_with_default_deny_nobody(void **state)
{
    const char *none[] = { NULL };

    (void)state;
    assert_true(lets_in(none, false, "192.0.2.7"));
    assert_true(lets_in(NULL, false, "2001:db8::1"));
    assert_false(lets_in(none, true, "192.0.2.7"));
    assert_false(lets_in(NULL, true, "127.0.0.1"));
}

static void peers_of_a_unix_socket_are_always_let_in(void **state)
{
    const struct sockaddr_un address = { .sun_family = AF_UNIX };
    const char *entries[] = { "10.0.0.0/8", NULL };
    struct acl *acl;

    (void)state;
    assert_int_equal(acl_new(entries, &acl, NULL), 0);
    acl_set_default_deny(acl, true);
    assert_true(acl_allows(acl, (const struct sockaddr *)&address));
    acl_free(acl);
}

static void a_list_tells_what_it_was_made_of(void **state)
{
    const char *entries[] = { "10.1.2.3/8", "::1", NULL };
    struct acl *acl;

    (void)state;
    assert_int_equal(acl_new(entries, &acl, NULL), 0);
    assert_string_equal(acl_entries(acl)[0], "10.1.2.3/8");
    assert_string_equal(acl_entries(acl)[1], "::1");
    assert_null(acl_entries(acl)[2]);
    acl_free(acl);
    assert_int_equal(acl_new(NULL, &acl, NULL), 0);
    assert_null(acl_entries(acl)[0]);
    acl_free(acl);
}

static void loopback_is_recognised(void **state)
{
    static const struct {
        const char *address;
        bool loopback;
    } cases[] = {
        { "127.0.0.1", true }, { "127.255.0.3", true }, { "::1", true },
        { "::ffff:127.0.0.1", true }, { "128.0.0.1", false }, { "126.255.255.255", false },
        { "::2", false }, { "::", false }, { "0.0.0.0", false }, { "::127.0.0.1", false },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        union address address = address_of(cases[i].address);

        if (acl_is_loopback(&address.any) != cases[i].loopback)
            fail_msg("%s", cases[i].address);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_address_is_in_the_networks_that_contain_it),
        cmocka_unit_test(junk_is_refused_and_named),
        cmocka_unit_test(an_empty_list_contains_nobody),
        cmocka_unit_test(a_unix_socket_is_in_no_network),
        cmocka_unit_test(loopback_is_recognised),
        cmocka_unit_test(with_entries_only_those_are_let_in),
        cmocka_unit_test(without_entries_all_are_let_in_or_with_default_deny_nobody),
        cmocka_unit_test(peers_of_a_unix_socket_are_always_let_in),
        cmocka_unit_test(a_list_tells_what_it_was_made_of),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
