/* Fuzzes the codec's kernel by itself, under AddressSanitizer and UndefinedBehaviorSanitizer: every buffer is exactly as
 * long as the kernel is told. What one direction makes of any pixels, the other turns back; any map and any streams of the
 * sizes that it names are joined; a wrong size is refused.
 *
 *     clang -std=c11 -O1 -g -Wno-psabi -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all \
 *         -o /tmp/kernel_fuzz tests/fuzz/kernel_fuzz.c && /tmp/kernel_fuzz -max_len=2048 -runs=10000000
 */
#include <stdlib.h>

#include "../../archive/codec/native/kernel.c"

#define REQUIRE(what) do { if (!(what)) __builtin_trap(); } while (0)

static uint8_t *copy_of(const uint8_t *data, size_t size)
{
    uint8_t *copy = malloc(size);
    REQUIRE(copy || !size);
    if (size) memcpy(copy, data, size);
    return copy;
}

/* Any bytes as pixels of any shape: refused, or the same again. */
static void there_and_back(const uint8_t *data, size_t size, unsigned word, int big, size_t width, size_t step)
{
    Shape shape;
    int wrong = shape_of(&shape, size, word, width, step);
    size_t room = wrong ? 64 : room_bytes(&shape, word);
    uint8_t *pixels = copy_of(data, size), *work = malloc(room), *streams[MOST_STREAMS] = {0};
    uint32_t starts[MOST_STREAMS], sizes[MOST_STREAMS], again[MOST_STREAMS];
    REQUIRE(work);
    int choice = coffer_split(pixels, size, word, big, width, step, work, room, starts, sizes);
    REQUIRE(wrong ? choice == wrong : choice >= NONE && choice < FILTERS);
    if (!wrong) {
        REQUIRE(coffer_split(pixels, size, word, big, width, step, work, room - 1, starts, again) == TOO_LITTLE_ROOM);
        size_t bytes = shape.blocks * BLOCK;
        for (unsigned n = 0; n < WIDE + word; n++) {
            REQUIRE(starts[n] <= room && sizes[n] <= room - starts[n]);
            streams[n] = copy_of(work + starts[n], sizes[n]);
        }
        REQUIRE(coffer_sizes(streams[0], sizes[0], size, word, again) == 0);
        for (unsigned n = 0; n < WIDE + word; n++) REQUIRE(sizes[n] == again[n]);
        uint8_t *out = malloc(size), *bench = malloc(bytes);
        REQUIRE(out && bench);
        REQUIRE(coffer_join((const uint8_t *const *)streams, sizes, size, word, big, width, step, choice, bench, bytes, out) == 0);
        REQUIRE(!__builtin_memcmp(out, pixels, size));
        free(out);
        free(bench);
    }
    for (unsigned n = 0; n < MOST_STREAMS; n++) free(streams[n]);
    free(work);
    free(pixels);
}

/* Any bytes as a map, and streams of the sizes that it names, cut from the same bytes. */
static void join_any(const uint8_t *data, size_t size, unsigned word, int big, size_t width, size_t step, int choice, unsigned lie)
{
    size_t map_size = size < 200 ? size : 200, blocks = 2 * map_size;
    if (!map_size || !width) return;
    size_t count = blocks * BLOCK / width * width;
    if (!count || (count + BLOCK - 1) / BLOCK != blocks) return;
    uint8_t *streams[MOST_STREAMS] = {copy_of(data, map_size)}, *out = malloc(count * word), *bench = malloc(blocks * BLOCK);
    uint32_t sizes[MOST_STREAMS];
    REQUIRE(out && bench);
    if (coffer_sizes(streams[0], map_size, count * word, word, sizes) == 0) {
        for (unsigned n = 1; n < WIDE + word; n++) {
            streams[n] = malloc(sizes[n]);
            for (size_t i = 0; i < sizes[n]; i++) streams[n][i] = data[(i * 7 + n) % size];
        }
        int done = coffer_join((const uint8_t *const *)streams, sizes, count * word, word, big, width, step, choice, bench,
                               blocks * BLOCK, out);
        REQUIRE(done == 0 || done == BAD_SHAPE);
        unsigned n = lie % (WIDE + word);
        sizes[n] += lie & 16 ? 1 : -1u;
        REQUIRE(coffer_join((const uint8_t *const *)streams, sizes, count * word, word, big, width, step, choice, bench,
                            blocks * BLOCK, out) < 0);
    }
    for (unsigned n = 0; n < MOST_STREAMS; n++) free(streams[n]);
    free(out);
    free(bench);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 6) return 0;
    static const unsigned words[] = {1, 2, 4, 2};
    unsigned word = words[data[0] & 3], mode = data[0] >> 4 & 3;
    int big = data[0] >> 2 & 1;
    size_t step = data[1] % 4 + 1, width = (data[2] | (size_t)(data[3] & 1) << 8) + 1;
    const uint8_t *rest = data + 5;
    size -= 5;
    if (mode == 0) { /* nothing fits together by itself */
        there_and_back(rest, size, data[4] & 7, big, width, data[1]);
    } else {
        width = (width + step - 1) / step * step;
        if (mode == 1) join_any(rest, size, word, big, width, step, data[4] % 5, data[4]);
        else there_and_back(rest, size / (width * word) * (width * word), word, big, width, step);
    }
    return 0;
}
