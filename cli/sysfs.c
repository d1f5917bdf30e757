/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Reads /sys/block/nbdN. A device is in use when its `pid` attribute exists: the netlink
 * STATUS command also counts devices that somebody merely holds open.
 */
#include "sysfs.h"
#include "net.h"
#include "size.h"
#include "words.h"

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define POLL_MS 20
#define EXCLUSIVE_OPEN_MS 2000 /* the open of a device whose server is gone may block */

/* ---- Attributes ---- */

/* The first line of a file, without its newline; false when it cannot be read. */
static bool read_line(const char *path, char *line, size_t size)
{
    FILE *file = fopen(path, "re");
    bool ok = file != NULL;

    line[0] = '\0';
    if (ok && fgets(line, (int)size, file) == NULL)
        ok = !ferror(file);
    if (file != NULL)
        fclose(file);
    line[strcspn(line, "\n")] = '\0';
    return ok;
}

static bool read_attribute(const struct sysfs *sysfs, int index, const char *attribute,
                           char *line, size_t size)
{
    char path[512];

    snprintf(path, sizeof(path), "%s/nbd%d/%s", sysfs->block, index, attribute);
    return read_line(path, line, size);
}

/* "nbd-runner:COOKIE@ADDRESS"; the address is missing in what older versions wrote. */
static void parse_backend(struct local_device *device)
{
    const char *cookie = device->backend + strlen(BACKEND_PREFIX), *at;

    if (!g_str_has_prefix(device->backend, BACKEND_PREFIX))
        return;
    at = strchrnul(cookie, '@');
    snprintf(device->cookie, sizeof(device->cookie), "%.*s", (int)(at - cookie), cookie);
    if (*at != '\0')
        g_strlcpy(device->address, at + 1, sizeof(device->address));
}

bool sysfs_read(const struct sysfs *sysfs, int index, struct local_device *ret_device)
{
    struct local_device device = {.index = index, .block_bytes = SECTOR_BYTES};
    char line[128];
    uint64_t number;

    if (!read_attribute(sysfs, index, "size", line, sizeof(line)))
        return false;
    if (number_parse(line, &number) == NULL && number <= UINT64_MAX / SECTOR_BYTES)
        device.size_bytes = number * SECTOR_BYTES;
    device.in_use = read_attribute(sysfs, index, "pid", line, sizeof(line));
    device.readonly = read_attribute(sysfs, index, "ro", line, sizeof(line)) && *line == '1';
    if (device.in_use)
        read_attribute(sysfs, index, "backend", device.backend, sizeof(device.backend));
    if (read_attribute(sysfs, index, "queue/logical_block_size", line, sizeof(line)) &&
        number_parse(line, &number) == NULL && number >= SECTOR_BYTES && number <= UINT32_MAX)
        device.block_bytes = (uint32_t)number;
    clean_text(device.backend);
    parse_backend(&device);
    *ret_device = device;
    return true;
}

/* The columns of "stat" that count requests that have ended: reads, writes, discards, flushes;
 * and the one that counts those that have not. */
bool sysfs_load(const struct sysfs *sysfs, int index, struct device_load *ret_load)
{
    static const size_t ended[] = {0, 4, 11, 15};
    struct device_load load = {0};
    char line[512];
    g_auto(GStrv) field = NULL;
    size_t n = 0;

    if (!read_attribute(sysfs, index, "stat", line, sizeof(line)))
        return false;
    field = g_strsplit_set(g_strstrip(line), " ", -1);
    for (char **p = field; *p != NULL; p++) {
        uint64_t number = g_ascii_strtoull(*p, NULL, 10);

        if (**p == '\0')
            continue;
        for (size_t i = 0; i < G_N_ELEMENTS(ended); i++)
            load.completed += n == ended[i] ? number : 0;
        load.in_flight = n == 8 ? number : load.in_flight;
        n++;
    }
    if (n < 11)
        return false;
    *ret_load = load;
    return true;
}

static int compare_devices(const void *a, const void *b)
{
    return ((const struct local_device *)a)->index - ((const struct local_device *)b)->index;
}

size_t sysfs_list(const struct sysfs *sysfs, struct local_device **ret_devices)
{
    GDir *dir = g_dir_open(sysfs->block, 0, NULL);
    GArray *devices = g_array_new(FALSE, FALSE, sizeof(struct local_device));
    const char *name;
    size_t n;

    while (dir != NULL && (name = g_dir_read_name(dir)) != NULL) {
        struct local_device device;
        int index = device_index_parse(name);

        if (index >= 0 && sysfs_read(sysfs, index, &device))
            g_array_append_val(devices, device);
    }
    if (dir != NULL)
        g_dir_close(dir);
    n = devices->len;
    *ret_devices = (struct local_device *)(void *)g_array_free(devices, FALSE);
    if (n > 1)
        qsort(*ret_devices, n, sizeof(struct local_device), compare_devices);
    return n;
}

/* ---- Users ---- */

/* The nodes of a device: itself and its partitions, with their major:minor. */
struct node {
    char name[32];
    char number[32];
};

static void add_node(GArray *nodes, const char *name, const char *dir)
{
    g_autofree char *path = g_build_filename(dir, "dev", NULL);
    struct node node = {0};

    snprintf(node.name, sizeof(node.name), "%s", name);
    if (read_line(path, node.number, sizeof(node.number)))
        g_array_append_val(nodes, node);
}

static GArray *list_nodes(const struct sysfs *sysfs, const char *disk)
{
    GArray *nodes = g_array_new(FALSE, TRUE, sizeof(struct node));
    g_autofree char *dir = g_build_filename(sysfs->block, disk, NULL);
    GDir *entries = g_dir_open(dir, 0, NULL);
    const char *name;

    add_node(nodes, disk, dir);
    while (entries != NULL && (name = g_dir_read_name(entries)) != NULL) {
        if (g_str_has_prefix(name, disk)) {
            g_autofree char *partition = g_build_filename(dir, name, NULL);

            add_node(nodes, name, partition);
        }
    }
    if (entries != NULL)
        g_dir_close(entries);
    return nodes;
}

/* Is this path, as mountinfo or swaps gives it, the node? */
static bool is_node_path(const struct sysfs *sysfs, const char *path, const struct node *node)
{
    size_t length = strlen(sysfs->dev);

    return path != NULL && strncmp(path, sysfs->dev, length) == 0 && path[length] == '/' &&
           strcmp(path + length + 1, node->name) == 0;
}

/* A line is "id parent major:minor root mountpoint options [optional...] - type source ...".
 * The source is looked at too: some file systems (btrfs) have a device number of their own. */
static char *mount_point(const struct sysfs *sysfs, char *line, const GArray *nodes)
{
    char *dash = strstr(line, " - "), *source = NULL;
    g_auto(GStrv) field = NULL;

    if (dash != NULL) {
        g_auto(GStrv) tail = g_strsplit(dash + 3, " ", 3);

        source = g_strv_length(tail) >= 2 ? g_strcompress(tail[1]) : NULL;
    }
    g_autofree char *source_owned = source;
    field = g_strsplit(line, " ", 6);
    if (g_strv_length(field) < 6)
        return NULL;
    for (guint i = 0; i < nodes->len; i++) {
        const struct node *node = &g_array_index(nodes, struct node, i);

        if (strcmp(field[2], node->number) == 0 || is_node_path(sysfs, source, node))
            return g_strdup(field[4]);
    }
    return NULL;
}

/* NULL: it cannot be read. */
static GStrv proc_lines(const struct sysfs *sysfs, const char *file)
{
    g_autofree char *path = g_build_filename(sysfs->proc, file, NULL);
    g_autofree char *text = NULL;

    return g_file_get_contents(path, &text, NULL, NULL) ? g_strsplit(text, "\n", -1) : NULL;
}

static char *find_mount(const struct sysfs *sysfs, const GArray *nodes)
{
    g_auto(GStrv) lines = proc_lines(sysfs, "self/mountinfo");

    for (char **line = lines; line != NULL && *line != NULL; line++) {
        g_autofree char *where = mount_point(sysfs, *line, nodes);
        g_autofree char *plain = where != NULL ? g_strcompress(where) : NULL;

        if (plain != NULL)
            return g_strdup_printf("is mounted on %s", plain);
    }
    return NULL;
}

static char *find_swap(const struct sysfs *sysfs, const GArray *nodes)
{
    g_auto(GStrv) lines = proc_lines(sysfs, "swaps");

    for (char **line = lines; line != NULL && *line != NULL; line++) {
        (*line)[strcspn(*line, " \t")] = '\0';
        for (guint i = 0; i < nodes->len; i++)
            if (is_node_path(sysfs, *line, &g_array_index(nodes, struct node, i)))
                return g_strdup("is used for swapping");
    }
    return NULL;
}

/* Another block device (LVM, dm-crypt, md) on top. */
static char *find_holder(const struct sysfs *sysfs, const char *disk, const GArray *nodes)
{
    char *found = NULL;

    for (guint i = 0; i < nodes->len && found == NULL; i++) {
        const struct node *node = &g_array_index(nodes, struct node, i);
        bool is_disk = strcmp(node->name, disk) == 0;
        g_autofree char *path =
            g_build_filename(sysfs->block, disk, is_disk ? "." : node->name, "holders", NULL);
        GDir *dir = g_dir_open(path, 0, NULL);
        const char *name = dir != NULL ? g_dir_read_name(dir) : NULL;

        if (name != NULL)
            found = g_strdup_printf("is held by the block device %s", name);
        if (dir != NULL)
            g_dir_close(dir);
    }
    return found;
}

/* An exclusive open fails while anything claims the device. In a child, as it may block: then
 * the child ends when the device is disconnected, and nobody waits for it. */
static bool is_claimed(const char *path)
{
    int64_t deadline = deadline_in_ms(EXCLUSIVE_OPEN_MS);
    pid_t child = fork();
    int status = 0;

    if (child == 0) {
        int fd = open(path, O_RDONLY | O_EXCL | O_CLOEXEC);

        _exit(fd < 0 && errno == EBUSY ? 1 : 0);
    }
    while (child > 0 && waitpid(child, &status, WNOHANG) == 0) {
        if (deadline_left_ms(deadline) == 0) {
            kill(child, SIGKILL);
            return false;
        }
        usleep(POLL_MS * 1000);
    }
    return child > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 1;
}

char *sysfs_user(const struct sysfs *sysfs, int index)
{
    g_autofree char *disk = g_strdup_printf("nbd%d", index);
    g_autofree char *path = g_build_filename(sysfs->dev, disk, NULL);
    GArray *nodes = list_nodes(sysfs, disk);
    char *user = find_mount(sysfs, nodes);

    if (user == NULL)
        user = find_swap(sysfs, nodes);
    if (user == NULL)
        user = find_holder(sysfs, disk, nodes);
    if (user == NULL && is_claimed(path))
        user = g_strdup("is in exclusive use by a program");
    g_array_free(nodes, TRUE);
    return user;
}

/* ---- Waiting ---- */

bool sysfs_wait_ready(const struct sysfs *sysfs, int index, uint64_t size_bytes,
                      int64_t deadline)
{
    g_autofree char *path = g_strdup_printf("%s/nbd%d", sysfs->dev, index);

    for (;;) {
        struct local_device device;
        struct stat st;

        if (sysfs_read(sysfs, index, &device) && device.in_use &&
            device.size_bytes == size_bytes && stat(path, &st) == 0 && S_ISBLK(st.st_mode))
            return true;
        if (deadline_left_ms(deadline) == 0)
            return false;
        usleep(POLL_MS * 1000);
    }
}

bool sysfs_wait_free(const struct sysfs *sysfs, int index, int64_t deadline)
{
    struct local_device device;

    while (sysfs_read(sysfs, index, &device) && device.in_use) {
        if (deadline_left_ms(deadline) == 0)
            return false;
        usleep(POLL_MS * 1000);
    }
    return true;
}
