/* The layouts of kernels/gpu/layout.h as arithmetic: every element has one place, swizzles undo
 * themselves, and a few places are those of the PTX manual's own figures. */
#include "tests/check.h"

#include "kernels/gpu/layout.h"

/* Counts that each (row, column) < (rows, columns) is some lane's element exactly once. */
static void covers(struct gpu_place (*place)(int lane, int element), int lanes, int elements,
                   int rows, int columns) {
    int *seen = calloc((size_t)(rows * columns), sizeof *seen);
    assert_non_null(seen);
    for (int lane = 0; lane < lanes; lane++)
        for (int i = 0; i < elements; i++) {
            struct gpu_place at = place(lane, i);
            assert_in_range(at.row, 0, rows - 1);
            assert_in_range(at.column, 0, columns - 1);
            seen[at.row * columns + at.column]++;
        }
    for (int i = 0; i < rows * columns; i++) assert_int_equal(seen[i], 1);
    free(seen);
}

static void assert_place(struct gpu_place at, int row, int column) {
    assert_int_equal(at.row, row);
    assert_int_equal(at.column, column);
}

static void fragments_cover_their_matrices(void **state) {
    (void)state;
    covers(gpu_place_a, 32, 8, 16, 16);
    covers(gpu_place_b, 32, 4, 16, 8);
    covers(gpu_place_d, 32, 4, 16, 8);
    covers(gpu_place_a_tf32, 32, 4, 16, 8);
    covers(gpu_place_b_tf32, 32, 2, 8, 8);
    for (int n = 8; n <= 256; n += 8) covers(gpu_place_wgmma, 128, n / 2, 64, n);
    /* m16n8k16: lane 5's a2 is row 1 + 8, a5 column 1 * 2 + 8 + 1; b3; c2. */
    assert_place(gpu_place_a(5, 2), 9, 2);
    assert_place(gpu_place_a(5, 5), 1, 11);
    assert_place(gpu_place_b(5, 3), 11, 1);
    assert_place(gpu_place_d(5, 2), 9, 2);
    assert_place(gpu_place_a_tf32(5, 2), 1, 5);
    assert_place(gpu_place_b_tf32(5, 1), 5, 1);
    /* wgmma: thread 37 is lane 5 of warp 1: rows 17 and 25; d4 begins the next 8 columns. */
    assert_place(gpu_place_wgmma(37, 1), 17, 3);
    assert_place(gpu_place_wgmma(37, 2), 25, 2);
    assert_place(gpu_place_wgmma(37, 4), 17, 10);
}

static void swizzles_undo_themselves(void **state) {
    (void)state;
    for (int swizzle = GPU_SWIZZLE_NONE; swizzle <= GPU_SWIZZLE_128; swizzle++)
        for (uint32_t offset = 0; offset < 4096; offset++) {
            uint32_t there = gpu_swizzle_offset((enum gpu_swizzle)swizzle, offset);
            assert_int_equal(gpu_swizzle_offset((enum gpu_swizzle)swizzle, there), offset);
            assert_int_equal(there / 128, offset / 128); /* a 128-byte line keeps its bytes */
            assert_int_equal(there % 16, offset % 16);   /* and chunks of 16 stay whole */
            if (swizzle == GPU_SWIZZLE_NONE) assert_int_equal(there, offset);
        }
    /* Row 3 of a 128-byte tile: chunk 0 lies at 3; of a 64-byte one, line 1: chunk 4 at 5. */
    assert_int_equal(gpu_swizzle_offset(GPU_SWIZZLE_128, 3 * 128), 3 * 128 + 3 * 16);
    assert_int_equal(gpu_swizzle_offset(GPU_SWIZZLE_64, 3 * 64), 128 + 5 * 16);
    assert_int_equal(gpu_swizzle_offset(GPU_SWIZZLE_32, 4 * 32), 128 + 16);
}

static void descriptors_keep_their_fields(void **state) {
    (void)state;
    const struct gpu_operand operand = {0x12340, 0x2000, 0x400, 5, GPU_SWIZZLE_64};
    const struct gpu_operand back = gpu_descriptor_operand(gpu_descriptor(operand));
    assert_int_equal(back.address, operand.address);
    assert_int_equal(back.chunk_bytes, operand.chunk_bytes);
    assert_int_equal(back.group_bytes, operand.group_bytes);
    assert_int_equal(back.base, operand.base);
    assert_int_equal(back.swizzle, operand.swizzle);
    /* Mode 1 in bits 62-63 is 128 bytes, groups 1024 bytes apart stand as 64 in bits 32-45. */
    uint64_t tile = gpu_tile_descriptor(0x400, GPU_SWIZZLE_128, 0);
    assert_true(tile == ((uint64_t)1 << 62 | (uint64_t)64 << 32 | 0x40));
    assert_true(gpu_descriptor_next(tile, 32) == tile + 2);
    assert_int_equal(gpu_descriptor_operand(gpu_tile_descriptor(0, GPU_SWIZZLE_32, 0)).swizzle,
                     GPU_SWIZZLE_32);
}

/* A tile of 64 x 64 as TMA lays it is what an operand reads, in both majors, at every step of k. */
static void operands_read_what_boxes_wrote(void **state) {
    (void)state;
    for (int s = GPU_SWIZZLE_32; s <= GPU_SWIZZLE_128; s++) {
        const enum gpu_swizzle swizzle = (enum gpu_swizzle)s;
        const uint32_t span = gpu_swizzle_span(swizzle), per_row = span / 2, base = 2048;
        for (uint32_t k = 0; k < per_row; k++)
            for (uint32_t mn = 0; mn < 64; mn++) {
                uint64_t d = gpu_tile_descriptor(base, swizzle, 0);
                d = gpu_descriptor_next(d, k / 16 * 32);
                assert_int_equal(gpu_operand_address(gpu_descriptor_operand(d), GPU_K_MAJOR,
                                                     (int)mn, (int)(k % 16)),
                                 base + gpu_swizzle_offset(swizzle, mn * span + k * 2));
            }
        for (uint32_t k = 0; k < 64; k++)
            for (uint32_t mn = 0; mn < 64; mn++) {
                uint64_t d = gpu_tile_descriptor(base, swizzle, 64 * span);
                d = gpu_descriptor_next(d, k / 16 * 16 * span);
                uint32_t box = base + mn / per_row * 64 * span;
                assert_int_equal(gpu_operand_address(gpu_descriptor_operand(d), GPU_MN_MAJOR,
                                                     (int)mn, (int)(k % 16)),
                                 box + gpu_swizzle_offset(swizzle, k * span + mn % per_row * 2));
            }
    }
}

static void shapes_that_TMA_refuses_are_named(void **state) {
    (void)state;
    const struct gpu_tensor_shape right = {.rank = 2,
                                           .element_bytes = 2,
                                           .size = {100, 7},
                                           .stride_bytes = {0, 208},
                                           .box = {64, 8},
                                           .swizzle = GPU_SWIZZLE_128};
    void *base = (void *)(uintptr_t)4096;
    assert_null(gpu_tensor_shape_wrong(&right, base));
    assert_int_equal(gpu_tensor_box_bytes(&right), 1024);
    struct gpu_tensor_shape wrong = right;
    wrong.stride_bytes[1] = 200;
    assert_string_equal(gpu_tensor_shape_wrong(&wrong, base),
                        "a stride is not a multiple of 16 bytes below 2^40");
    wrong = right, wrong.box[0] = 32;
    assert_string_equal(gpu_tensor_shape_wrong(&wrong, base),
                        "the box's rows are not as wide as the swizzle's");
    wrong = right, wrong.box[1] = 257;
    assert_string_equal(gpu_tensor_shape_wrong(&wrong, base), "a side of the box is not 1 to 256");
    wrong = right, wrong.size[1] = 0;
    assert_string_equal(gpu_tensor_shape_wrong(&wrong, base), "a size is not 1 to 2^32 - 1");
    wrong = right, wrong.rank = 5;
    assert_string_equal(gpu_tensor_shape_wrong(&wrong, base), "the rank is not 1 to 4");
    assert_string_equal(gpu_tensor_shape_wrong(&right, (void *)(uintptr_t)4104),
                        "the base is not a multiple of 16 bytes");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fragments_cover_their_matrices),
        cmocka_unit_test(swizzles_undo_themselves),
        cmocka_unit_test(descriptors_keep_their_fields),
        cmocka_unit_test(operands_read_what_boxes_wrote),
        cmocka_unit_test(shapes_that_TMA_refuses_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
