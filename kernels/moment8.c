#include "kernels/moment8.h"

enum { DECADES = 7 };

/* Ascending, from 0 to 1. */
static int list_levels(float levels[MOMENT8_BLOCK], int is_signed) {
    int count = 0;
    levels[count++] = 0.0f;
    for (int i = 0; i < DECADES; i++) {
        int parts = is_signed ? 1 << i : 2 << i;
        for (int j = 0; j < parts; j++)
            levels[count++] = (float)(pow(10.0, i - 6) * (0.1 + 0.9 * (j + 0.5) / parts));
    }
    if (is_signed) count--;
    levels[count++] = 1.0f;
    return count;
}

void moment8_map_create(struct moment8_map *map, int is_signed) {
    map->count = list_levels(map->values, is_signed);
    for (int i = 0; i < MOMENT8_BLOCK; i++) map->middles[i] = INFINITY;
    for (int i = 0; i + 1 < map->count; i++)
        map->middles[i] = 0.5f * (map->values[i] + map->values[i + 1]);
    for (int i = map->count; i < MOMENT8_BLOCK; i++) map->values[i] = -map->values[i - map->count];
    map->nearest[0] = 0;
    unsigned code = 0;
    for (uint32_t cell = 0; cell < MOMENT8_CELLS; cell++) {
        uint32_t bits = (cell + MOMENT8_LOWEST_CELL) << 16;
        float begin;
        memcpy(&begin, &bits, sizeof begin);
        while (begin > map->middles[code]) code++;
        map->nearest[cell + 1] = (uint8_t)code;
    }
}
