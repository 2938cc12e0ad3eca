/* What kernel.c does with words of one size: WORD is their type, INT the signed one, NAME(x) gives x that size's name. */

typedef WORD NAME(Words) __attribute__((vector_size(BLOCK * sizeof(WORD))));
typedef INT NAME(Ints) __attribute__((vector_size(BLOCK * sizeof(WORD))));

ALWAYS WORD NAME(load)(const uint8_t *words, size_t i)
{
    WORD word;
    memcpy(&word, words + i * sizeof word, sizeof word);
    return word;
}

ALWAYS NAME(Words) NAME(load_block)(const uint8_t *words, size_t i)
{
    NAME(Words) block;
    memcpy(&block, words + i * sizeof(WORD), sizeof block);
    return block;
}

/* The bits of all words of a block together. */
ALWAYS unsigned NAME(block_bits)(NAME(Words) block)
{
    uint64_t lanes[sizeof block / 8], all = 0;
    memcpy(lanes, &block, sizeof block);
    for (size_t i = 0; i < sizeof block / 8; i++) all |= lanes[i];
    for (unsigned half = 32; half >= 8 * sizeof(WORD); half /= 2) all |= all >> half;
    return bits_of((WORD)all);
}

/* Each word of a block plus those before it in the block, and `before`, which becomes the last: a few additions of whole vectors instead of
 * fifteen that wait for each other. Vectors of 16 bytes, because every processor moves words within these. */
ALWAYS NAME(Words) NAME(sums)(NAME(Words) block, WORD *before)
{
    typedef WORD Part __attribute__((vector_size(16)));
    enum { EACH = sizeof(Part) / sizeof(WORD), PARTS = sizeof block / sizeof(Part) };
    Part parts[PARTS];
    memcpy(parts, &block, sizeof block);
    for (int p = 0; p < PARTS; p++) {
        Part x = parts[p];
        x += (Part)MOVED((Bytes)x, sizeof(WORD));
        if (EACH > 2) x += (Part)MOVED((Bytes)x, 2 * sizeof(WORD));
        if (EACH > 4) x += (Part)MOVED((Bytes)x, 4 * sizeof(WORD) % 16);
        if (EACH > 8) x += (Part)MOVED((Bytes)x, 8 * sizeof(WORD) % 16);
        parts[p] = x + *before;
        *before = (WORD)(*before + x[EACH - 1]);
    }
    memcpy(&block, parts, sizeof block);
    return block;
}

static void NAME(swap)(uint8_t *words, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        WORD from = NAME(load)(words, i), to = 0;
        for (size_t k = 0; k < sizeof(WORD); k++) to = (WORD)(to | (WORD)((from >> 8 * k & 0xFF) << 8 * (sizeof(WORD) - 1 - k)));
        memcpy(words + i * sizeof to, &to, sizeof to);
    }
}

/* The filter that leaves the fewest bits in a sample of rows, each filter counted in blocks that run on across rows. */
static int NAME(choose)(const uint8_t *words, const Shape *shape)
{
    size_t width = shape->width, step = shape->step, height = shape->count / width;
    if (height < 2 || width <= step) return LEFT;
    size_t apart = height / SAMPLED_ROWS ? height / SAMPLED_ROWS : 1, filled = 0;
    uint64_t totals[FILTERS] = {0};
    WORD all[FILTERS] = {0};
    for (size_t y = 1; y < height; y += apart) {
        const uint8_t *row = words + y * width * sizeof(WORD), *above = row - width * sizeof(WORD);
        for (size_t x = step; x < width;) {
            size_t rest = width - x, stop = x + (BLOCK - filled < rest ? BLOCK - filled : rest);
            filled += stop - x;
            WORD none = 0, left = 0, up = 0, both = 0;
            for (; x < stop; x++) {
                WORD here = NAME(load)(row, x), before = NAME(load)(row, x - step);
                WORD over = NAME(load)(above, x), corner = NAME(load)(above, x - step);
                WORD l = (WORD)(here - before), u = (WORD)(here - over), b = (WORD)(u - (WORD)(before - corner));
                none |= here;
                left |= (WORD)((WORD)(l << 1) ^ l);
                up |= (WORD)((WORD)(u << 1) ^ u);
                both |= (WORD)((WORD)(b << 1) ^ b);
            }
            all[NONE] |= none, all[LEFT] |= left, all[UP] |= up, all[BOTH] |= both;
            if (filled < BLOCK) continue;
            filled = 0;
            for (int f = 0; f < FILTERS; f++) totals[f] += bits_of(all[f]), all[f] = 0;
        }
    }
    for (int f = 0; f < FILTERS; f++) totals[f] += bits_of(all[f]);
    int best = NONE;
    for (int f = LEFT; f < FILTERS; f++)
        if (totals[f] < totals[best]) best = f;
    return best;
}

/* Word i, filtered; 0 behind the last one. Words before the first one count as 0. */
ALWAYS WORD NAME(filtered)(const uint8_t *words, const Shape *shape, int choice, size_t i)
{
    size_t width = shape->width, step = shape->step;
    if (i >= shape->count) return 0;
    WORD word = NAME(load)(words, i);
    if (choice & LEFT && i >= step) word = (WORD)(word - NAME(load)(words, i - step));
    if (choice & UP && i >= width) word = (WORD)(word - NAME(load)(words, i - width));
    if (choice == BOTH && i >= width + step) word = (WORD)(word + NAME(load)(words, i - width - step));
    return word;
}

ALWAYS void NAME(classify_by)(const uint8_t *restrict words, const Shape *shape, int choice, uint8_t *restrict filtered,
                              uint8_t *restrict classes, size_t counts[CLASSES])
{
    size_t width = shape->width, step = shape->step, early = width + step;
    for (size_t b = 0, i = 0; b < shape->blocks; b++, i += BLOCK) {
        NAME(Words) x;
        if (i >= early && i + BLOCK <= shape->count) {
            x = NAME(load_block)(words, i);
            if (choice & LEFT) x -= NAME(load_block)(words, i - step);
            if (choice & UP) x -= NAME(load_block)(words, i - width);
            if (choice == BOTH) x += NAME(load_block)(words, i - width - step);
        } else {
            for (size_t k = 0; k < BLOCK; k++) x[k] = NAME(filtered)(words, shape, choice, i + k);
        }
        memcpy(filtered + i * sizeof(WORD), &x, sizeof x);
        /* Xor with the double: needs as many bits unsigned as the word does signed. */
        unsigned class = NAME(block_bits)(choice == NONE ? x : x << 1 ^ x);
        classes[b] = (uint8_t)class;
        counts[class]++;
    }
}

/* Chooses the filter and returns it; filters; the class of each block, and how many blocks are in each. */
static int NAME(classify)(const uint8_t *words, const Shape *shape, uint8_t *filtered, uint8_t *classes,
                          size_t counts[CLASSES])
{
    int choice = NAME(choose)(words, shape);
    switch (choice) { /* a loop of its own for each, without a branch inside */
    case NONE: NAME(classify_by)(words, shape, NONE, filtered, classes, counts); break;
    case LEFT: NAME(classify_by)(words, shape, LEFT, filtered, classes, counts); break;
    case UP: NAME(classify_by)(words, shape, UP, filtered, classes, counts); break;
    default: NAME(classify_by)(words, shape, BOTH, filtered, classes, counts);
    }
    return choice;
}

/* Every block to the end of those of its class. There is no branch, because classes of neighbours hardly predict each
 * other: all that a block could need is stored, and places move on by what it does. */
static void NAME(sort)(const uint8_t *restrict filtered, const uint8_t *restrict classes, size_t blocks, int choice,
                       uint8_t *const *sorted)
{
    uint8_t sink[BLOCK], *places[CLASSES] = {sink}, *upper[sizeof(WORD)] = {0};
    uint8_t middles[CLASSES] = {0}, moves[CLASSES] = {0};
    for (unsigned c = 1; c < CLASSES; c++) {
        places[c] = sorted[c];
        middles[c] = middle_of(c, choice);
        moves[c] = BLOCK;
    }
    for (size_t k = 1; k < sizeof(WORD); k++) upper[k] = sorted[WIDE + sizeof(WORD) - k]; /* the top one first */
    for (size_t b = 0; b < blocks; b++) {
        unsigned class = classes[b];
        NAME(Words) x = NAME(load_block)(filtered, b * BLOCK);
        Bytes low = __builtin_convertvector(x, Bytes) + middles[class];
        memcpy(places[class], &low, sizeof low);
        places[class] += moves[class];
        for (size_t k = 1; k < sizeof(WORD); k++) {
            Bytes high = __builtin_convertvector(x >> 8 * (k % sizeof(WORD)), Bytes);
            memcpy(upper[k], &high, sizeof high);
            upper[k] += class == WIDE ? BLOCK : 0;
        }
    }
}

ALWAYS void NAME(join_by)(const uint8_t *map, const uint8_t *const *sorted, const Shape *shape, int choice,
                          uint8_t *restrict out)
{
    static const uint8_t zeros[BLOCK];
    size_t width = shape->width, step = shape->step, count = shape->count;
    const uint8_t *places[CLASSES] = {zeros}, *upper[sizeof(WORD)] = {0};
    uint8_t middles[CLASSES] = {0}, moves[CLASSES] = {0};
    WORD before = 0, row[MOST_STEP + BLOCK] = {0}; /* sums to the left: of the last word, of the last four */
    for (unsigned c = 1; c < CLASSES; c++) {
        places[c] = sorted[c];
        middles[c] = middle_of(c, choice);
        moves[c] = BLOCK;
    }
    for (size_t k = 1; k < sizeof(WORD); k++) upper[k] = sorted[WIDE + sizeof(WORD) - k];
    for (size_t b = 0, i = 0; b < shape->blocks; b++, i += BLOCK) {
        unsigned class = map[b / 2] >> (b % 2 * 4) & 15;
        Bytes low;
        memcpy(&low, places[class], sizeof low);
        places[class] += moves[class];
        low -= middles[class];
        NAME(Words) x = __builtin_convertvector(low, NAME(Words));
        if (class == WIDE) {
            for (size_t k = 1; k < sizeof(WORD); k++) {
                Bytes high;
                memcpy(&high, upper[k], sizeof high);
                upper[k] += BLOCK;
                x |= __builtin_convertvector(high, NAME(Words)) << 8 * (k % sizeof(WORD));
            }
        } else if (choice != NONE) {
            x = (NAME(Words))__builtin_convertvector((Signed)low, NAME(Ints));
        }
        if (choice & LEFT && step == 1) {
            x = NAME(sums)(x, &before);
        } else if (choice & LEFT) {
            for (size_t k = 0; k < BLOCK; k++) row[MOST_STEP + k] = (WORD)(x[k] + row[MOST_STEP + k - step]);
            memcpy(&x, row + MOST_STEP, sizeof x);
            memcpy(row, row + BLOCK, MOST_STEP * sizeof *row);
        }
        if (i + BLOCK <= count && (!(choice & UP) || (i >= width && width >= BLOCK))) {
            if (choice & UP) x += NAME(load_block)(out, i - width);
            memcpy(out + i * sizeof(WORD), &x, sizeof x);
            continue;
        }
        for (size_t k = 0; k < BLOCK && i + k < count; k++) {
            WORD word = x[k];
            if (choice & UP && i + k >= width) word = (WORD)(word + NAME(load)(out, i + k - width));
            memcpy(out + (i + k) * sizeof word, &word, sizeof word);
        }
    }
}

/* Words from blocks sorted by class. The map was checked, and that there are as many of each class as it says. */
static void NAME(join)(const uint8_t *map, const uint8_t *const *sorted, const Shape *shape, int choice, uint8_t *out)
{
    switch (choice) {
    case NONE: NAME(join_by)(map, sorted, shape, NONE, out); break;
    case LEFT: NAME(join_by)(map, sorted, shape, LEFT, out); break;
    case UP: NAME(join_by)(map, sorted, shape, UP, out); break;
    default: NAME(join_by)(map, sorted, shape, BOTH, out);
    }
}

#undef WORD
#undef INT
#undef NAME
