#include "core/memory.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum { PATH_BYTES = 4096 };

/* What one kind of control group calls its files, and where they are mounted. */
struct hierarchy {
    const char *mount, *limit, *used, *droppable; /* droppable: a word of memory.stat */
};
static const struct hierarchy version_1 = {"sys/fs/cgroup/memory", "memory.limit_in_bytes",
                                           "memory.usage_in_bytes", "total_inactive_file"};
static const struct hierarchy version_2 = {"sys/fs/cgroup", "memory.max", "memory.current",
                                           "inactive_file"};

/* The number after `word` at the start of a line; with "" the file's first. */
static bool read_number(const char *path, const char *word, uint64_t *number) {
    FILE *file = fopen(path, "r");
    char line[256];
    size_t length = strlen(word);
    bool found = false;
    if (!file) return false;
    while (!found && fgets(line, sizeof line, file)) {
        unsigned long long value;
        found = strncmp(line, word, length) == 0 && sscanf(line + length, " %llu", &value) == 1;
        if (found) *number = value;
    }
    fclose(file);
    return found;
}

/* Lowers *least to what the group in `folder` has left. One without a limit says "max", or a number
 * that no machine reaches. */
static void limit_by_group(const struct hierarchy *h, const char *folder, uint64_t *least) {
    char path[PATH_BYTES + 64];
    uint64_t limit, used = 0, droppable = 0;
    snprintf(path, sizeof path, "%s/%s", folder, h->limit);
    if (!read_number(path, "", &limit)) return;
    snprintf(path, sizeof path, "%s/%s", folder, h->used);
    read_number(path, "", &used);
    snprintf(path, sizeof path, "%s/memory.stat", folder);
    read_number(path, h->droppable, &droppable);
    used -= droppable < used ? droppable : used;
    uint64_t left = used < limit ? limit - used : 0;
    if (left < *least) *least = left;
}

/* The group and those above it; in a container the mount may begin at a lower one than the path. */
static void limit_by_groups(const struct hierarchy *h, const char *root, const char *group,
                            uint64_t *least) {
    char folder[PATH_BYTES];
    int mount = snprintf(folder, sizeof folder, "%s/%s", root, h->mount);
    if (mount < 0 || (size_t)mount + strlen(group) >= sizeof folder) return;
    snprintf(folder + mount, sizeof folder - (size_t)mount, "%s", group);
    for (char *end = folder + strlen(folder); end >= folder + mount; end--)
        if (*end == '/' || *end == '\0') {
            *end = '\0';
            limit_by_group(h, folder, least);
        }
}

/* A line of /proc/self/cgroup is ID:CONTROLLERS:PATH; version 2 has the one without controllers. */
static void limit_by_line(const char *root, char *line, uint64_t *least) {
    line[strcspn(line, "\n")] = '\0';
    char *controllers = strchr(line, ':');
    char *group = controllers ? strchr(controllers + 1, ':') : NULL;
    if (!group) return;
    *group++ = '\0';
    controllers++;
    if (!*controllers) limit_by_groups(&version_2, root, group, least);
    if (strcmp(controllers, "memory") == 0) limit_by_groups(&version_1, root, group, least);
}

bool memory_available(const char *root, size_t *bytes) {
    char path[PATH_BYTES], line[PATH_BYTES];
    uint64_t least = UINT64_MAX, kib;
    snprintf(path, sizeof path, "%s/proc/meminfo", root);
    if (read_number(path, "MemAvailable:", &kib) && kib < UINT64_MAX / 1024) least = kib * 1024;
    snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    FILE *groups = fopen(path, "r");
    while (groups && fgets(line, sizeof line, groups)) limit_by_line(root, line, &least);
    if (groups) fclose(groups);
    if (least == UINT64_MAX) return false;
    *bytes = least < SIZE_MAX ? (size_t)least : SIZE_MAX;
    return true;
}
