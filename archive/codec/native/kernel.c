/* The codec's work on one frame of pixels: filter, classify, sort and pack its words, and the way back.
 *
 * archive/FORMAT-BODY.md, method 2, says what the streams are; archive/codec/bitplanes.py and pixels.py do the same in
 * numpy and are what this file is tested against: both write the same bytes. zstd stays outside.
 *
 * Rules: no allocation, no state, no call of the system, nothing of libc but memcpy and memset. Whatever the arguments
 * are, no byte is touched beyond the sizes that they give: a shape or a length that does not fit is refused before the
 * first of them. Words wrap around, so any bytes come back as they were. Words lie at any address, hence memcpy.
 * Needs a machine that is little endian, and the vector extensions of GCC 12 or Clang.
 */
#include <stddef.h>
#include <stdint.h>

/* Without the C library's headers: a compiler has these two by itself. */
#define memcpy __builtin_memcpy
#define memset __builtin_memset

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "streams are packed by arithmetic on little-endian words"
#endif

#define EXPORT __attribute__((visibility("default")))
#define ALWAYS static inline __attribute__((always_inline))

enum { BLOCK = 16, WIDE = 9, CLASSES = WIDE + 1, FEWEST = 24, SAMPLED_ROWS = 12 };
enum { MOST_STREAMS = WIDE + 4, MOST_STEP = 4, MOST_BYTES = 1 << 20 };
enum { NONE, LEFT, UP, BOTH, FILTERS }; /* bit 0: minus the word to the left, bit 1: minus the word above */
enum { BAD_SHAPE = -1, TOO_LITTLE_ROOM = -2, BAD_MAP = -3, BAD_LENGTH = -4 };

/* Bits that a word of each class takes in its stream. */
static const uint8_t FIELD[CLASSES] = {0, 1, 2, 4, 4, 8, 8, 8, 8, 8};

typedef uint8_t Bytes __attribute__((vector_size(BLOCK)));
typedef int8_t Signed __attribute__((vector_size(BLOCK)));

typedef struct {
    size_t count, width, step; /* words of the frame and of a row, and words to the same sample of the pixel before */
    size_t blocks;
} Shape;

/* The bytes of a vector moved up by so many, zeros below them. */
#define MOVED(x, by) __builtin_shufflevector((Bytes){0}, x, 16 - (by), 17 - (by), 18 - (by), 19 - (by), 20 - (by), \
    21 - (by), 22 - (by), 23 - (by), 24 - (by), 25 - (by), 26 - (by), 27 - (by), 28 - (by), 29 - (by), 30 - (by), 31 - (by))

ALWAYS unsigned bits_of(uint32_t word)
{
    unsigned bits = word ? 32 - (unsigned)__builtin_clz(word) : 0;
    return bits < WIDE ? bits : WIDE;
}

/* The offset that makes the words of a class count from 0. */
ALWAYS uint8_t middle_of(unsigned class, int choice)
{
    return choice != NONE && class > 0 && class < WIDE ? (uint8_t)(1u << (class - 1)) : 0;
}

/* `count` bytes, a multiple of BLOCK, that use only `field` bits: 8 / field of them in each byte of `fields`. */
static void pack_fields(const uint8_t *restrict bytes, size_t count, unsigned field, uint8_t *restrict fields)
{
    if (field == 4) {
        for (size_t i = 0; i < count / 2; i++) {
            uint16_t v;
            memcpy(&v, bytes + 2 * i, sizeof v);
            fields[i] = (uint8_t)(v | v >> 4);
        }
    } else if (field == 2) {
        for (size_t i = 0; i < count / 4; i++) {
            uint32_t v;
            memcpy(&v, bytes + 4 * i, sizeof v);
            v |= v >> 6;
            fields[i] = (uint8_t)(v | v >> 12);
        }
    } else {
        for (size_t i = 0; i < count / 8; i++) {
            uint64_t v;
            memcpy(&v, bytes + 8 * i, sizeof v);
            fields[i] = (uint8_t)(v * 0x0102040810204080 >> 56); /* bit 8k to bit 56 + k */
        }
    }
}

/* The inverse. */
static void unpack_fields(const uint8_t *restrict fields, size_t count, unsigned field, uint8_t *restrict bytes)
{
    if (field == 4) {
        for (size_t i = 0; i < count / 2; i++) {
            uint16_t v = (uint16_t)((fields[i] | fields[i] << 4) & 0x0F0F);
            memcpy(bytes + 2 * i, &v, sizeof v);
        }
    } else if (field == 2) {
        for (size_t i = 0; i < count / 4; i++) {
            uint32_t v = (fields[i] | (uint32_t)fields[i] << 12) & 0x000F000F;
            v = (v | v << 6) & 0x03030303;
            memcpy(bytes + 4 * i, &v, sizeof v);
        }
    } else {
        for (size_t i = 0; i < count / 8; i++) {
            uint64_t v = fields[i] * 0x0101010101010101u & 0x8040201008040201; /* bit k of byte k */
            v = (v + 0x7F7F7F7F7F7F7F7F) >> 7 & 0x0101010101010101;
            memcpy(bytes + 8 * i, &v, sizeof v);
        }
    }
}

static int shape_of(Shape *shape, size_t size, unsigned word, size_t width, size_t step)
{
    if (word != 1 && word != 2 && word != 4) return BAD_SHAPE;
    if (!size || size > MOST_BYTES || size % word || !step || step > MOST_STEP) return BAD_SHAPE;
    size_t count = size / word;
    if (!width || width > count || count % width || width % step) return BAD_SHAPE;
    *shape = (Shape){count, width, step, (count + BLOCK - 1) / BLOCK};
    return 0;
}

/* Blocks of few classes do not pay for a stream: each goes to the next class, as all of its class do. */
static void merge(uint8_t *classes, size_t blocks, size_t counts[CLASSES])
{
    uint8_t becomes[CLASSES];
    for (unsigned c = 0; c < CLASSES; c++) becomes[c] = (uint8_t)c;
    for (unsigned c = 1; c < WIDE; c++) {
        if (!counts[c] || counts[c] >= FEWEST) continue;
        for (unsigned d = 1; d <= c; d++)
            if (becomes[d] == c) becomes[d] = (uint8_t)(c + 1);
        counts[c + 1] += counts[c];
        counts[c] = 0;
    }
    for (size_t b = 0; b < blocks; b++) classes[b] = becomes[classes[b]];
}

/* Bytes of each stream, the map's included, when so many blocks are in each class. */
static void sizes_of(const size_t counts[CLASSES], size_t blocks, unsigned word, uint32_t *sizes)
{
    sizes[0] = (uint32_t)((blocks + 1) / 2);
    for (unsigned c = 1; c < CLASSES; c++) sizes[c] = (uint32_t)(counts[c] * BLOCK * FIELD[c] / 8);
    for (unsigned k = 1; k < word; k++) sizes[WIDE + k] = (uint32_t)(counts[WIDE] * BLOCK);
}

static int count_classes(const uint8_t *map, size_t map_size, size_t blocks, size_t counts[CLASSES])
{
    size_t all[16] = {0};
    if (map_size != (blocks + 1) / 2) return BAD_LENGTH;
    for (size_t b = 0; b < blocks / 2; b++) {
        all[map[b] & 15]++;
        all[map[b] >> 4]++;
    }
    if (blocks % 2) {
        all[map[blocks / 2] & 15]++;
        if (map[blocks / 2] >> 4) return BAD_MAP;
    }
    for (unsigned c = CLASSES; c < 16; c++)
        if (all[c]) return BAD_MAP;
    memcpy(counts, all, CLASSES * sizeof *counts);
    return 0;
}

#define WORD uint8_t
#define INT int8_t
#define NAME(x) x##_1
#include "word.h"
#define WORD uint16_t
#define INT int16_t
#define NAME(x) x##_2
#include "word.h"
#define WORD uint32_t
#define INT int32_t
#define NAME(x) x##_4
#include "word.h"
#define BY_WORD(word, work, ...) ((word) == 1 ? work##_1(__VA_ARGS__) : (word) == 2 ? work##_2(__VA_ARGS__) : work##_4(__VA_ARGS__))

/* What `split` works in. Blocks sorted by class take no more than all words do, packed ones half of one byte a word.
 * Behind each stream is room for a block, because one is stored there for every block, of that class or not. */
typedef struct {
    uint8_t *swapped, *filtered, *classes, *map, *sorted, *packed;
} Room;

static size_t room_bytes(const Shape *shape, unsigned word)
{
    size_t words = shape->blocks * BLOCK * word;
    return 3 * words + MOST_STREAMS * BLOCK + shape->blocks * BLOCK / 2 + shape->blocks / 2 + 1 + shape->blocks + 1;
}

static int room_of(Room *room, uint8_t *work, size_t work_size, const Shape *shape, unsigned word)
{
    size_t words = shape->blocks * BLOCK * word, sorted = words + MOST_STREAMS * BLOCK;
    size_t packed = shape->blocks * BLOCK / 2, map = shape->blocks / 2 + 1;
    if (work_size < room_bytes(shape, word)) return TOO_LITTLE_ROOM;
    room->swapped = work;
    room->filtered = room->swapped + words;
    room->sorted = room->filtered + words;
    room->packed = room->sorted + sorted;
    room->map = room->packed + packed;
    room->classes = room->map + map; /* one more than there are blocks */
    return 0;
}

/* Streams of a frame of `size` bytes: 9 and as many as a word has bytes, stream n of sizes[n] bytes at work + starts[n].
 * Returns the filter that was chosen, or what is wrong as a negative number. */
EXPORT int coffer_split(const uint8_t *data, size_t size, unsigned word, int big_endian, size_t width, size_t step,
                        uint8_t *work, size_t work_size, uint32_t *starts, uint32_t *sizes)
{
    Shape shape;
    Room room;
    int wrong = shape_of(&shape, size, word, width, step);
    if (!wrong) wrong = room_of(&room, work, work_size, &shape, word);
    if (wrong) return wrong;
    if (big_endian && word > 1) {
        memcpy(room.swapped, data, size);
        BY_WORD(word, swap, room.swapped, shape.count);
        data = room.swapped;
    }
    size_t counts[CLASSES] = {0};
    int choice = BY_WORD(word, classify, data, &shape, room.filtered, room.classes, counts);
    merge(room.classes, shape.blocks, counts);
    room.classes[shape.blocks] = 0; /* the half without a block, if their number is odd */
    for (size_t b = 0; b < shape.blocks; b += 2)
        room.map[b / 2] = (uint8_t)(room.classes[b] | room.classes[b + 1] << 4);
    sizes_of(counts, shape.blocks, word, sizes);

    uint8_t *sorted[MOST_STREAMS], *end = room.sorted;
    for (unsigned n = 1; n < WIDE + word; n++) {
        sorted[n] = end;
        end += counts[n < WIDE ? n : WIDE] * BLOCK + BLOCK;
        starts[n] = (uint32_t)(sorted[n] - work);
    }
    BY_WORD(word, sort, room.filtered, room.classes, shape.blocks, choice, sorted);
    starts[0] = (uint32_t)(room.map - work);
    for (unsigned c = 1; FIELD[c] < 8; c++) {
        pack_fields(sorted[c], counts[c] * BLOCK, FIELD[c], room.packed);
        starts[c] = (uint32_t)(room.packed - work);
        room.packed += sizes[c];
    }
    return choice;
}

/* Bytes of each stream of a frame of `size` bytes, from its map of `map_size` bytes. Returns 0, or what is wrong. */
EXPORT int coffer_sizes(const uint8_t *map, size_t map_size, size_t size, unsigned word, uint32_t *sizes)
{
    Shape shape;
    size_t counts[CLASSES];
    int wrong = shape_of(&shape, size, word, 1, 1);
    if (!wrong) wrong = count_classes(map, map_size, shape.blocks, counts);
    if (!wrong) sizes_of(counts, shape.blocks, word, sizes);
    return wrong;
}

/* The `size` bytes of a frame from its 9 + word streams, stream n of sizes[n] bytes. Works in a byte for each word, of
 * whole blocks. Returns 0, or what is wrong. */
EXPORT int coffer_join(const uint8_t *const *streams, const uint32_t *sizes, size_t size, unsigned word, int big_endian,
                       size_t width, size_t step, int choice, uint8_t *work, size_t work_size, uint8_t *out)
{
    Shape shape;
    size_t counts[CLASSES];
    uint32_t right[MOST_STREAMS];
    const uint8_t *sorted[MOST_STREAMS];
    int wrong = shape_of(&shape, size, word, width, step);
    if (!wrong && (choice < NONE || choice >= FILTERS)) wrong = BAD_SHAPE;
    if (!wrong && work_size < shape.blocks * BLOCK) wrong = TOO_LITTLE_ROOM;
    if (!wrong) wrong = count_classes(streams[0], sizes[0], shape.blocks, counts);
    if (wrong) return wrong;
    sizes_of(counts, shape.blocks, word, right);
    for (unsigned n = 0; n < WIDE + word; n++) {
        if (sizes[n] != right[n]) return BAD_LENGTH;
        sorted[n] = streams[n];
    }
    for (unsigned c = 1; FIELD[c] < 8; c++) {
        unpack_fields(streams[c], counts[c] * BLOCK, FIELD[c], work);
        sorted[c] = work;
        work += counts[c] * BLOCK;
    }
    BY_WORD(word, join, streams[0], sorted, &shape, choice, out);
    if (big_endian && word > 1) BY_WORD(word, swap, out, shape.count);
    return 0;
}
