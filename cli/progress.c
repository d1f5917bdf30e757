/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Draws the progress of the one thing that goes on.
 */
#include "progress.h"
#include "net.h"

#include <glib.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <unistd.h>

#define BAR_WIDTH 30
#define DRAW_EVERY_MS 100

int64_t progress_line_every_ms = 10000;

static struct {
    bool is_under_way;
    bool is_drawn; /* the cursor stands behind a bar */
    int64_t began_ms, shown_ms;
} state;

static const char *short_size(double bytes, char text[16])
{
    static const char units[] = "BKMGTPE";
    size_t unit = 0;

    for (; bytes >= 1024 && unit < sizeof(units) - 2; unit++)
        bytes /= 1024;
    snprintf(text, 16, unit == 0 ? "%.0f%c" : "%.1f%c", bytes, units[unit]);
    return text;
}

static double part_of(uint64_t done, uint64_t total)
{
    return total == 0 ? 0 : MIN((double)done / (double)total, 1.0);
}

const char *progress_format(uint64_t done, uint64_t total, int64_t elapsed_ms,
                            char text[PROGRESS_TEXT_MAX])
{
    char size[16], rate[16];
    double per_second = elapsed_ms > 0 ? (double)done * 1000 / (double)elapsed_ms : 0;
    int n;

    if (total == 0) {
        snprintf(text, PROGRESS_TEXT_MAX, "%s", short_size((double)done, size));
        return text;
    }
    n = snprintf(text, PROGRESS_TEXT_MAX, "%3d%% of %s", (int)(part_of(done, total) * 100),
                 short_size((double)total, size));
    if (per_second >= 1)
        n += snprintf(text + n, PROGRESS_TEXT_MAX - (size_t)n, ", %s/s",
                      short_size(per_second, rate));
    if (per_second >= 1 && done < total)
        snprintf(text + n, PROGRESS_TEXT_MAX - (size_t)n, ", %.0f s left",
                 (double)(total - done) / per_second);
    return text;
}

static void draw_bar(const char *what, double part, const char *text)
{
    int filled = (int)(part * BAR_WIDTH);

    /* \033[K: nothing is left of a longer text */
    fprintf(stderr, "\r%s [%.*s%*s] %s\033[K", what, filled, "##############################",
            BAR_WIDTH - filled, "", text);
    fflush(stderr);
    state.is_drawn = true;
}

void progress_show(const char *what, uint64_t done, uint64_t total)
{
    int64_t now = deadline_in_ms(0);
    bool is_terminal = isatty(STDERR_FILENO);
    int64_t pause = is_terminal ? DRAW_EVERY_MS : progress_line_every_ms;
    bool is_whole = is_terminal && total > 0 && done >= total;
    char text[PROGRESS_TEXT_MAX];

    if (!state.is_under_way) {
        state.is_under_way = true;
        state.began_ms = now;
        state.shown_ms = is_terminal ? now - pause : now;
    }
    if (now - state.shown_ms < pause && !is_whole)
        return;
    state.shown_ms = now;
    progress_format(done, total, now - state.began_ms, text);
    if (is_terminal)
        draw_bar(what, part_of(done, total), text);
    else
        fprintf(stderr, "%s: %s\n", what, text);
}

void progress_end(void)
{
    if (state.is_drawn)
        fprintf(stderr, "\n");
    state.is_drawn = state.is_under_way = false;
}
