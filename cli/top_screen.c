/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * nbd-cli top on a terminal, with ncurses. Reads keys between two looks at the daemon; when
 * that cannot be reached, says so and tries again.
 */
#include "top.h"

#include "output.h"

#include <curses.h>
#include <locale.h>
#include <string.h>
#include <unistd.h>

#define INTERVAL_MAX_S 3600
#define NUMBERS_WIDTH 58 /* of the columns behind the name */
#define CLIENT_ROWS 8    /* of the screen, for clients, when there are many exports */

enum { PAIR_BAD = 1 };

struct screen {
    struct cli *cli;
    struct top *top;
    uint64_t interval_s;
    unsigned first;        /* row of the exports that is shown first */
    bool coloured, over;
    char problem[512];     /* why the last look failed; "" = it did not */
};

/* ---- Lines ---- */

/* A line of `width` columns, filled up. Cuts at a character, not in it. */
static void put_line(int y, int width, int attributes, const char *text)
{
    g_autofree char *valid = g_utf8_make_valid(text, -1);
    glong length = g_utf8_strlen(valid, -1);

    if (y >= LINES)
        return;
    if (length > width)
        *g_utf8_offset_to_pointer(valid, width) = '\0';
    attron(attributes);
    mvaddstr(y, 0, valid);
    for (int x = getcurx(stdscr); length < width && x < width; x++)
        addch(' ');
    attroff(attributes);
    clrtoeol();
}

/* A name in what is left of the line, and the numbers behind it. */
static char *join(const char *name, const char *numbers)
{
    int room = MAX(COLS - NUMBERS_WIDTH, 8);
    g_autofree char *valid = g_utf8_make_valid(name, -1);
    glong length = g_utf8_strlen(valid, -1);

    if (length > room - 1) {
        *g_utf8_offset_to_pointer(valid, room - 1) = '\0';
        length = room - 1;
    }
    return g_strdup_printf("%s%*s%s", valid, (int)(room - length), "", numbers);
}

static void put_row(int y, const struct top_row *row, const struct screen *s)
{
    char rate[TOP_TEXT_MAX], read[TOP_TEXT_MAX], written[TOP_TEXT_MAX], mean[TOP_TEXT_MAX];
    char errors[TOP_TEXT_MAX];
    bool bad = strcmp(row->state, "faulted") == 0 || row->errors > 0;
    g_autofree char *numbers = g_strdup_printf(
        "%8s %8s %9s %8s %8u %5u %6s", top_rate(row->requests, 1000, rate),
        top_rate(row->read_bytes, 1024, read), top_rate(row->written_bytes, 1024, written),
        top_time(row->time_s, mean), row->in_flight, row->connections,
        strcmp(row->state, "faulted") == 0 ? "FAULT" : top_rate(row->errors, 1000, errors));
    g_autofree char *line = join(row->name, numbers);

    put_line(y, COLS, bad ? (s->coloured ? COLOR_PAIR(PAIR_BAD) : A_BOLD) : 0, line);
}

static void put_client(int y, const struct top_row *row)
{
    char rate[TOP_TEXT_MAX], read[TOP_TEXT_MAX], written[TOP_TEXT_MAX];
    g_autofree char *name = g_strdup_printf("%s  %s", row->name, row->note);
    g_autofree char *numbers = g_strdup_printf(
        "%8s %8s %9s %8s %8u", top_rate(row->requests, 1000, rate),
        top_rate(row->read_bytes, 1024, read), top_rate(row->written_bytes, 1024, written), "",
        row->in_flight);
    g_autofree char *line = join(name, numbers);

    put_line(y, COLS, 0, line);
}

/* The headline in as many lines as it takes; the next free line. */
static int put_headline(const struct screen *s)
{
    g_autofree char *text = top_headline(s->top);
    g_auto(GStrv) words = g_strsplit(text, ", ", -1);
    g_autoptr(GString) line = g_string_new(NULL);
    int y = 0;

    for (char **word = words; *word != NULL; word++) {
        if (line->len > 0 && line->len + strlen(*word) + 2 > (size_t)COLS) {
            put_line(y++, COLS, A_BOLD, line->str);
            g_string_truncate(line, 0);
        }
        g_string_append_printf(line, "%s%s", line->len > 0 ? ", " : "", *word);
    }
    put_line(y++, COLS, A_BOLD, line->str);
    return y;
}

static void put_footer(const struct screen *s)
{
    g_autofree char *text = NULL;

    if (s->problem[0] != '\0')
        text = g_strdup_printf("%s; trying again", s->problem);
    else
        text = g_strdup_printf("every %" G_GUINT64_FORMAT " s, by %s | q quit  s sort  "
                               "+ - interval  space now  arrows scroll",
                               s->interval_s, top_sort_name(s->top->sort));
    put_line(LINES - 1, COLS - 1,
             s->problem[0] != '\0' && s->coloured ? COLOR_PAIR(PAIR_BAD) : A_REVERSE, text);
}

static void draw(struct screen *s)
{
    const GPtrArray *exports = s->top->exports, *clients = s->top->clients;
    g_autofree char *titles =
        join("EXPORT", "   REQ/S   READ/S WRITTEN/S     TIME INFLIGHT  CONN  ERR/S");
    g_autofree char *client_titles =
        join("CLIENT", "   REQ/S   READ/S WRITTEN/S          INFLIGHT");
    int y, for_clients = MIN((int)clients->len, CLIENT_ROWS), room;

    erase();
    y = put_headline(s);
    put_line(y++, COLS, A_REVERSE, titles);
    room = MAX(LINES - y - 1 - (for_clients > 0 ? for_clients + 1 : 0), 1);
    s->first = MIN(s->first, exports->len > (guint)room ? exports->len - (guint)room : 0);
    for (guint i = s->first; i < exports->len && room > 0 && y < LINES - 1; i++, room--)
        put_row(y++, g_ptr_array_index(exports, i), s);
    if (for_clients > 0 && y < LINES - 2) {
        put_line(y++, COLS, A_REVERSE, client_titles);
        for (guint i = 0; i < clients->len && y < LINES - 1; i++)
            put_client(y++, g_ptr_array_index(clients, i));
    }
    put_footer(s);
    refresh();
}

/* ---- Keys ---- */

static void scroll_by(struct screen *s, int rows)
{
    s->first = rows < 0 && s->first < (unsigned)-rows ? 0 : s->first + (unsigned)rows;
}

/* True: look at the daemon now. */
static bool take_key(struct screen *s, int key)
{
    switch (key) {
    case 'q': case 'Q': case 3: s->over = true; break;
    case 's':
        s->top->sort = (s->top->sort + 1) % N_TOP_SORTS;
        top_sort(s->top);
        break;
    case 'S':
        s->top->sort = (s->top->sort + N_TOP_SORTS - 1) % N_TOP_SORTS;
        top_sort(s->top);
        break;
    case '+': s->interval_s = MIN(s->interval_s + 1, INTERVAL_MAX_S); break;
    case '-': s->interval_s = MAX(s->interval_s, 2) - 1; break;
    case KEY_UP: scroll_by(s, -1); break;
    case KEY_DOWN: scroll_by(s, 1); break;
    case KEY_PPAGE: scroll_by(s, -(LINES / 2)); break;
    case KEY_NPAGE: scroll_by(s, LINES / 2); break;
    case KEY_HOME: s->first = 0; break;
    case ' ': case 'r': return true;
    default: break;
    }
    return false;
}

/* Until the next look is due. */
static void wait_and_take_keys(struct screen *s)
{
    int64_t start_us = g_get_monotonic_time(), left_ms;
    int key;

    while (!s->over) {
        left_ms = (int64_t)s->interval_s * 1000 - (g_get_monotonic_time() - start_us) / 1000;
        if (left_ms <= 0)
            return;
        timeout((int)left_ms);
        key = getch();
        if (key == ERR && !isatty(STDIN_FILENO))
            s->over = true; /* the terminal has gone */
        if (key == ERR)
            continue;
        if (take_key(s, key))
            return;
        draw(s);
    }
}

/* ---- The screen ---- */

static bool open_screen(struct screen *s)
{
    setlocale(LC_CTYPE, "");
    if (newterm(NULL, s->cli->out, stdin) == NULL)
        return false;
    cbreak();
    noecho();
    keypad(stdscr, TRUE);
    curs_set(0);
    s->coloured = has_colours(s->cli->out) && has_colors() && start_color() == OK;
    if (s->coloured) {
        use_default_colors();
        init_pair(PAIR_BAD, COLOR_RED, -1);
    }
    return true;
}

/* A daemon that cannot be reached may come back; one that refuses will go on refusing. */
static int look(struct screen *s, struct failure *why)
{
    int r = top_refresh(s->top, s->cli, why);

    s->problem[0] = '\0';
    if (r != STATUS_UNREACHABLE && r != STATUS_NO_ANSWER)
        return r;
    g_strlcpy(s->problem, why->message, sizeof(s->problem));
    client_close(s->cli->client);
    s->cli->client = NULL;
    return 0;
}

int top_screen(struct cli *cli, struct top *top, uint64_t interval_s, uint64_t count,
               struct failure *why)
{
    struct screen s = {.cli = cli, .top = top, .interval_s = interval_s};
    int r = top_refresh(top, cli, why);

    if (r != 0)
        return r;
    if (!open_screen(&s))
        return fail_with(why, STATUS_FAILED, "this terminal cannot be used; try 'top batch'");
    draw(&s);
    for (uint64_t i = 0; r == 0 && !s.over && (count == 0 || i < count); i++) {
        wait_and_take_keys(&s);
        if (s.over)
            break;
        r = look(&s, why);
        draw(&s);
    }
    endwin();
    return r;
}
