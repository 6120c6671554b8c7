/* Moments in 8 bits: the list of levels, the nearest of them, what dequantizing and quantizing
 * again gives, and tiles of a matrix. */
#define _GNU_SOURCE
#include "tests/kernels_tables.h"

#include "kernels/moment8.h"
#include "kernels/pack.h"

/* bitsandbytes 0.50.2, create_dynamic_map: (number among those not negative, level). */
static const struct {
    bool is_signed;
    int number;
    float level;
} peers[] = {{true, 1, 5.50000038e-07f},
             {true, 2, 3.25000019e-06f},
             {true, 3, 7.7499999e-06f},
             {true, 8, 0.000156250011f},
             {true, 73, 0.233593747f},
             {true, 123, 0.936718762f},
             {true, 127, 1.0f},
             {false, 1, 3.2500003e-07f},
             {false, 2, 7.7499999e-07f},
             {false, 3, 2.12499981e-06f},
             {false, 20, 0.000409375032f},
             {false, 100, 0.0627343804f},
             {false, 200, 0.616796851f},
             {false, 254, 0.996484399f},
             {false, 255, 1.0f},
             {true, 0, 0.0f}};

static void test_levels_are_the_papers(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof peers / sizeof *peers; i++) {
        struct moment8_map map;
        moment8_map_create(&map, peers[i].is_signed);
        assert_int_equal(map.count, peers[i].is_signed ? 128 : 256);
        assert_all_close(&map.values[peers[i].number], &peers[i].level, 1, 0, 2e-7, "level");
        if (peers[i].is_signed)
            assert_true(map.values[128 + peers[i].number] == -map.values[peers[i].number]);
    }
}

/* The first of the levels that is nearest, in double. */
static int nearest(const struct moment8_map *map, float x) {
    int best = 0;
    for (int i = 1; i < map->count; i++)
        if (fabs(fabs((double)x) - (double)map->values[i]) <
            fabs(fabs((double)x) - (double)map->values[best]))
            best = i;
    return best;
}

static void check_code(const struct moment8_map *map, float x) {
    bool is_signed = map->count == 128;
    int code = moment8_code(x, map), want = nearest(map, x);
    float got = map->values[code];
    if (!is_signed && want == 0 && x > 0.0f) want = 1;
    if (is_signed && x < 0.0f) want += 128;
    if (got != map->values[want])
        fail_msg("%.9g became %.9g, not %.9g", (double)x, (double)got, (double)map->values[want]);
}

/* Of numbers of all magnitudes, and on both sides of every middle. */
static void test_codes_are_the_nearest(void **state) {
    (void)state;
    struct random random = {.seed = 3};
    for (int is_signed = 0; is_signed < 2; is_signed++) {
        struct moment8_map map;
        moment8_map_create(&map, is_signed);
        for (int i = 0; i < 20000; i++) {
            float x = ldexpf((float)random_int(&random, 0, 1 << 24) / (1 << 24),
                             -random_int(&random, 0, 30));
            check_code(&map, is_signed && i % 2 ? -x : x);
        }
        for (int i = 0; i + 1 < map.count; i++) {
            check_code(&map, nextafterf(map.middles[i], 0.0f) * (1.0f - 1e-6f));
            check_code(&map, nextafterf(map.middles[i], 2.0f) * (1.0f + 1e-6f));
            check_code(&map, map.values[i]);
        }
        check_code(&map, 0.0f);
        check_code(&map, 1.0f);
        assert_true(map.values[moment8_code(nextafterf(1.0f, 2.0f), &map)] == 1.0f);
    }
}

/* What a checkpoint of dequantized moments relies on. */
static void test_quantizing_again_changes_nothing(void **state) {
    (void)state;
    struct random random = {.seed = 4};
    for (int i = 0; i < 400; i++) {
        struct moment8_map map;
        struct moment8 block, again;
        float scale = ldexpf(1.0f, i % 200 - 99), wide[MOMENT8_BLOCK], back[MOMENT8_BLOCK];
        moment8_map_create(&map, i % 2);
        for (int e = 0; e < MOMENT8_BLOCK; e++) {
            float spread = ldexpf(1.0f, -random_int(&random, 0, 24));
            wide[e] = scale * spread * random_normal(&random);
            if (i % 2 == 0) wide[e] = fabsf(wide[e]);
        }
        moment8_pack(&block, wide, &map);
        moment8_unpack(back, &block, &map);
        moment8_pack(&again, back, &map);
        assert_memory_equal(&block, &again, sizeof block);
        float most = 0.0f;
        for (int e = 0; e < MOMENT8_BLOCK; e++) most = fmaxf(most, fabsf(wide[e]));
        for (int e = 0; e < MOMENT8_BLOCK; e++) {
            /* half of the step between levels: 0.9 / 64 or 0.9 / 128 of a decade, twice that at 1
             */
            float size = fabsf(wide[e]) / most, decade = 1.0f;
            while (decade > 1e-6f && size < 0.1f * decade) decade *= 0.1f;
            float parts = i % 2 ? 64.0f : 128.0f;
            for (float d = decade; d < 0.5f; d *= 10.0f) parts *= 0.5f;
            float bound = most * (size > 0.97f ? 0.011f : decade * 0.9f / parts);
            assert_true(fabsf(back[e] - wide[e]) <= bound + 6e-7f * most);
            assert_true(fabsf(wide[e]) != most || back[e] == wide[e]);
            if (i % 2 == 0) assert_true(wide[e] == 0.0f || back[e] > 0.0f);
        }
    }
}

static void test_blocks_without_a_scale(void **state) {
    (void)state;
    static const float extremes[] = {0.0f, 0x1p-101f, NAN, INFINITY};
    for (int i = 0; i < 8; i++) {
        struct moment8_map map;
        struct moment8 block;
        float wide[MOMENT8_BLOCK] = {0}, back[MOMENT8_BLOCK];
        moment8_map_create(&map, i % 2);
        wide[17] = extremes[i / 2];
        moment8_pack(&block, wide, &map);
        moment8_unpack(back, &block, &map);
        for (int e = 0; e < MOMENT8_BLOCK; e++)
            assert_true(i < 4 ? back[e] == 0.0f : isnan(back[e]));
    }
}

/* A tile of the matrix is a block of its panel; rows that are missing count as zeros. */
static void test_tiles_of_a_matrix(void **state) {
    (void)state;
    enum { ROWS = 41, COLS = 48, TILES = 3 * 3 };
    static float src[ROWS * COLS], out[ROWS * COLS], again[ROWS * COLS];
    struct random random = {.seed = 5};
    for (int is_signed = 0; is_signed < 2; is_signed++) {
        struct weight w = {is_signed ? LAYOUT_MOMENT8 : LAYOUT_MOMENT8_POSITIVE, ROWS, COLS, NULL};
        struct moment8_map map;
        moment8_map_create(&map, is_signed);
        assert_int_equal(weight_bytes(w.layout, ROWS, COLS), TILES * 260);
        struct moment8 *blocks = new_bytes(weight_bytes(w.layout, ROWS, COLS));
        w.data = blocks;
        for (int i = 0; i < ROWS * COLS; i++)
            src[i] = is_signed ? random_normal(&random) : fabsf(random_normal(&random));
        weight_pack(&w, 0, 32, src);
        weight_pack(&w, 32, ROWS - 32, src + 32 * COLS);
        for (int tile = 0; tile < TILES; tile++) {
            float wide[MOMENT8_BLOCK] = {0};
            struct moment8 want;
            for (int e = 0; e < MOMENT8_BLOCK; e++) {
                int row = tile / 3 * 16 + e % 16, col = tile % 3 * 16 + e / 16;
                if (row < ROWS) wide[e] = src[row * COLS + col];
            }
            moment8_pack(&want, wide, &map);
            assert_memory_equal(&want, &blocks[tile], sizeof want);
        }
        weight_unpack(out, &w, 0, ROWS);
        for (int row = 0; row < ROWS; row++)
            for (int col = 0; col < COLS; col++) {
                const struct moment8 *block = &blocks[row / 16 * 3 + col / 16];
                float want = block->scale * map.values[block->codes[col % 16 * 16 + row % 16]];
                assert_true(out[row * COLS + col] == want);
            }
        for (int first = 0; first < ROWS; first += 5) {
            int count = ROWS - first < 19 ? ROWS - first : 19;
            weight_unpack(again, &w, first, count);
            assert_memory_equal(again, out + first * COLS, (size_t)(count * COLS) * sizeof(float));
        }
        free(blocks);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_levels_are_the_papers),
        cmocka_unit_test(test_codes_are_the_nearest),
        cmocka_unit_test(test_quantizing_again_changes_nothing),
        cmocka_unit_test(test_blocks_without_a_scale),
        cmocka_unit_test(test_tiles_of_a_matrix),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
