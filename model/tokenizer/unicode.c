/* UTF-8, character classes and NFC as the `tokenizers` package has them. See unicode_impl.h for why
 * it is the yardstick.
 *
 * NFC runs only where it can change something: text is cut into runs of *inert* characters (they
 * are their own NFC, never join a neighbour before them and never move), and only the stretch from
 * the last inert character to the next one is decomposed, ordered and composed. English, Russian,
 * Chinese, Japanese and Korean text is copied whole. Ordering is a counting sort, so a megabyte of
 * accents on one letter takes linear time.
 *
 * Measured differences against utf8proc 2.8 (Unicode 15.0), which tests/e2e/test_tokenizer.py
 * checks over all characters:
 *  - letters, numbers and marks of Unicode 15.1 and 16: table `newer`;
 *  - marks newer than Unicode 9 have combining class 0: table `unordered`;
 *  - U+11938 neither decomposes nor is composed; U+11A7 does not vanish after a Hangul syllable. */
#include "model/tokenizer/unicode_impl.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

enum character_kind { LETTER, NUMBER, MARK };

static const struct newer {
    uint32_t first, last;
    enum character_kind kind;
} newer[] = {
    {0x897, 0x897, MARK},       {0x1C89, 0x1C8A, LETTER},   {0xA7CB, 0xA7CD, LETTER},
    {0xA7DA, 0xA7DC, LETTER},   {0x105C0, 0x105F3, LETTER}, {0x10D40, 0x10D49, NUMBER},
    {0x10D4A, 0x10D65, LETTER}, {0x10D69, 0x10D6D, MARK},   {0x10D6F, 0x10D85, LETTER},
    {0x10EC2, 0x10EC4, LETTER}, {0x10EFC, 0x10EFC, MARK},   {0x11380, 0x11389, LETTER},
    {0x1138B, 0x1138B, LETTER}, {0x1138E, 0x1138E, LETTER}, {0x11390, 0x113B5, LETTER},
    {0x113B7, 0x113B7, LETTER}, {0x113B8, 0x113C0, MARK},   {0x113C2, 0x113C2, MARK},
    {0x113C5, 0x113C5, MARK},   {0x113C7, 0x113CA, MARK},   {0x113CC, 0x113D0, MARK},
    {0x113D1, 0x113D1, LETTER}, {0x113D2, 0x113D2, MARK},   {0x113D3, 0x113D3, LETTER},
    {0x113E1, 0x113E2, MARK},   {0x116D0, 0x116E3, NUMBER}, {0x11BC0, 0x11BE0, LETTER},
    {0x11BF0, 0x11BF9, NUMBER}, {0x11F5A, 0x11F5A, MARK},   {0x13460, 0x143FA, LETTER},
    {0x16100, 0x1611D, LETTER}, {0x1611E, 0x1612F, MARK},   {0x16130, 0x16139, NUMBER},
    {0x16D40, 0x16D6C, LETTER}, {0x16D70, 0x16D79, NUMBER}, {0x18CFF, 0x18CFF, LETTER},
    {0x1CCF0, 0x1CCF9, NUMBER}, {0x1E5D0, 0x1E5ED, LETTER}, {0x1E5EE, 0x1E5EF, MARK},
    {0x1E5F0, 0x1E5F0, LETTER}, {0x1E5F1, 0x1E5FA, NUMBER}, {0x2EBF0, 0x2EE5D, LETTER},
};

static const uint32_t unordered[][2] = {
    {0x7FD, 0x7FD},     {0x898, 0x89F},     {0x8CA, 0x8D3},     {0x9FE, 0x9FE},     {0xC3C, 0xC3C},
    {0xD3B, 0xD3C},     {0xEBA, 0xEBA},     {0x1715, 0x1715},   {0x1ABF, 0x1ACE},   {0x1DF6, 0x1DFA},
    {0xA82C, 0xA82C},   {0x10D24, 0x10D27}, {0x10EAB, 0x10EAC}, {0x10EFD, 0x10EFF}, {0x10F46, 0x10F50},
    {0x10F82, 0x10F85}, {0x11070, 0x11070}, {0x1133B, 0x1133B}, {0x1145E, 0x1145E}, {0x11839, 0x1183A},
    {0x1193D, 0x1193E}, {0x11943, 0x11943}, {0x119E0, 0x119E0}, {0x11A34, 0x11A34}, {0x11A47, 0x11A47},
    {0x11A99, 0x11A99}, {0x11D42, 0x11D42}, {0x11D44, 0x11D45}, {0x11D97, 0x11D97}, {0x11F41, 0x11F42},
    {0x16FF0, 0x16FF1}, {0x1E08F, 0x1E08F}, {0x1E130, 0x1E136}, {0x1E2AE, 0x1E2AE}, {0x1E2EC, 0x1E2EF},
    {0x1E4EC, 0x1E4EF},
};

enum { DIVES_AKURU_O = 0x11938, HANGUL_L = 0x1100, HANGUL_V = 0x1161, HANGUL_T = 0x11A7, HANGUL_S = 0xAC00 };

/* ---- UTF-8 ---- */

bool sl_utf8_lead(uint8_t first, uint32_t *more, uint8_t *low, uint8_t *high)
{
    *low = 0x80;
    *high = 0xBF;
    *more = first < 0x80 ? 0 : first < 0xE0 ? 1 : first < 0xF0 ? 2 : 3;
    if (first >= 0x80 && (first < 0xC2 || first > 0xF4))
        return false;
    if (first == 0xE0)
        *low = 0xA0; /* shorter forms exist */
    else if (first == 0xED)
        *high = 0x9F; /* surrogates */
    else if (first == 0xF0)
        *low = 0x90;
    else if (first == 0xF4)
        *high = 0x8F; /* beyond U+10FFFF */
    return true;
}

bool sl_utf8_check(const char *text, size_t bytes, size_t *bad)
{
    const uint8_t *p = (const uint8_t *)text;
    for (size_t at = 0; at < bytes;) {
        uint32_t more;
        uint8_t low, high;
        *bad = at;
        if (p[at] < 0x80) {
            at++;
            continue;
        }
        if (!sl_utf8_lead(p[at], &more, &low, &high))
            return false;
        at++;
        for (; more > 0; more--, at++) {
            if (at == bytes || p[at] < low || p[at] > high)
                return false;
            low = 0x80;
            high = 0xBF;
        }
    }
    return true;
}

uint32_t sl_utf8_get(const char *text)
{
    const uint8_t *p = (const uint8_t *)text;
    switch (sl_utf8_length(text)) {
    case 1:
        return p[0];
    case 2:
        return (p[0] & 0x1Fu) << 6 | (p[1] & 0x3Fu);
    case 3:
        return (p[0] & 0x0Fu) << 12 | (p[1] & 0x3Fu) << 6 | (p[2] & 0x3Fu);
    default:
        return (p[0] & 7u) << 18 | (p[1] & 0x3Fu) << 12 | (p[2] & 0x3Fu) << 6 | (p[3] & 0x3Fu);
    }
}

size_t sl_utf8_put(char *to, uint32_t c)
{
    uint32_t n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    static const uint8_t mark[] = {0, 0, 0xC0, 0xE0, 0xF0};
    for (uint32_t i = n - 1; i > 0; i--, c >>= 6)
        to[i] = (char)(0x80 | (c & 0x3F));
    to[0] = (char)(mark[n] | c);
    return n;
}

size_t sl_utf8_before(const char *text, size_t bytes)
{
    size_t n = 1;
    while (n < bytes && ((uint8_t)text[bytes - n] & 0xC0) == 0x80)
        n++;
    return n;
}

/* ---- classes ---- */

static int newer_kind(uint32_t c) /* -1: not in the table */
{
    size_t low = 0, high = sizeof newer / sizeof newer[0];
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (c > newer[middle].last)
            low = middle + 1;
        else
            high = middle;
    }
    bool found = low < sizeof newer / sizeof newer[0] && c >= newer[low].first;
    return found ? (int)newer[low].kind : -1;
}

static bool is_space(uint32_t c) /* White_Space */
{
    return (c >= 9 && c <= 13) || c == ' ' || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
           c == 0x3000;
}

enum sl_unicode_class sl_unicode_class(uint32_t c)
{
    if (c < 0x80) {
        if ((c | 0x20) >= 'a' && (c | 0x20) <= 'z')
            return SL_CHAR_LETTER;
        if (c >= '0' && c <= '9')
            return SL_CHAR_NUMBER;
        return is_space(c) ? SL_CHAR_SPACE : SL_CHAR_OTHER;
    }
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);
    if (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO)
        return SL_CHAR_LETTER;
    if (category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO)
        return SL_CHAR_NUMBER;
    if (category == UTF8PROC_CATEGORY_CN) {
        int kind = newer_kind(c);
        return kind == LETTER ? SL_CHAR_LETTER : kind == NUMBER ? SL_CHAR_NUMBER : SL_CHAR_OTHER;
    }
    return is_space(c) ? SL_CHAR_SPACE : SL_CHAR_OTHER;
}

bool sl_unicode_is_word(uint32_t c)
{
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);
    if (category == UTF8PROC_CATEGORY_CN)
        return newer_kind(c) >= 0;
    if (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_NL)
        return true;
    return category == UTF8PROC_CATEGORY_PC || c == 0x200C || c == 0x200D || /* joiners */
           (c >= 0x24B6 && c <= 0x24E9) ||                                   /* circled letters */
           (c >= 0x1F130 && c <= 0x1F149) || (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189);
}

/* ---- NFC ---- */

static bool is_inert(uint32_t c)
{
    return c < 0x300 || (c >= 0x400 && c <= 0x482) || (c >= 0x2010 && c <= 0x2027) ||
           (c >= 0x3000 && c <= 0x3029) || (c >= 0x3030 && c <= 0x3098) || (c >= 0x309B && c <= 0x30FF) ||
           (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0xAC00 && c <= 0xD7A3) || (c >= 0xFF01 && c <= 0xFF9F);
}

static uint8_t order_of(uint32_t c) /* the canonical combining class */
{
    const utf8proc_property_t *property = utf8proc_get_property((utf8proc_int32_t)c);
    if (property->combining_class == 0)
        return 0;
    for (size_t i = 0; i < sizeof unordered / sizeof unordered[0]; i++)
        if (c >= unordered[i][0] && c <= unordered[i][1])
            return 0;
    return (uint8_t)property->combining_class;
}

static uint32_t compose(uint32_t a, uint32_t b) /* 0: they stay two */
{
    if (a >= HANGUL_L && a < HANGUL_L + 19 && b >= HANGUL_V && b < HANGUL_V + 21)
        return HANGUL_S + ((a - HANGUL_L) * 21 + (b - HANGUL_V)) * 28;
    if (a >= HANGUL_S && a < HANGUL_S + 11172 && (a - HANGUL_S) % 28 == 0 && b > HANGUL_T &&
        b < HANGUL_T + 28)
        return a + (b - HANGUL_T);
    if (b < 0x300 || b == HANGUL_T)
        return 0;
    utf8proc_int32_t pair[2] = {(utf8proc_int32_t)a, (utf8proc_int32_t)b};
    utf8proc_ssize_t left = utf8proc_normalize_utf32(pair, 2, UTF8PROC_COMPOSE | UTF8PROC_STABLE);
    return left == 1 && pair[0] != DIVES_AKURU_O ? (uint32_t)pair[0] : 0;
}

/* Characters of the stretch at hand, decomposed; order is their combining class. */
struct stretch {
    struct mark {
        uint32_t c;
        uint8_t order;
    } * marks, *spare;
    size_t n, room;
};

static bool stretch_add(struct stretch *s, uint32_t c)
{
    utf8proc_int32_t parts[32];
    utf8proc_ssize_t n = 1;
    int boundary = 0;
    parts[0] = (utf8proc_int32_t)c;
    if (c != DIVES_AKURU_O) {
        n = utf8proc_decompose_char(parts[0], parts, 32, UTF8PROC_DECOMPOSE | UTF8PROC_STABLE, &boundary);
        if (n < 0 || n > 32)
            return false;
    }
    if (s->n + 32 > s->room) {
        size_t room = 2 * s->room + 64;
        struct mark *marks = realloc(s->marks, room * sizeof *marks);
        if (!marks)
            return false;
        s->marks = marks;
        struct mark *spare = realloc(s->spare, room * sizeof *spare);
        if (!spare)
            return false;
        s->spare = spare;
        s->room = room;
    }
    for (utf8proc_ssize_t i = 0; i < n; i++) {
        s->marks[s->n].c = (uint32_t)parts[i];
        s->marks[s->n++].order = order_of((uint32_t)parts[i]);
    }
    return true;
}

/* A stable sort by class of marks[0..n), all of class > 0: by insertion when short, by counting
 * when long. */
static void sort_marks(struct mark *marks, struct mark *spare, size_t n)
{
    if (n <= 24) {
        for (size_t i = 1; i < n; i++) {
            struct mark m = marks[i];
            size_t j = i;
            for (; j > 0 && marks[j - 1].order > m.order; j--)
                marks[j] = marks[j - 1];
            marks[j] = m;
        }
        return;
    }
    size_t begin[257] = {0};
    for (size_t i = 0; i < n; i++)
        begin[marks[i].order + 1]++;
    for (size_t i = 1; i < 257; i++)
        begin[i] += begin[i - 1];
    for (size_t i = 0; i < n; i++)
        spare[begin[marks[i].order]++] = marks[i];
    memcpy(marks, spare, n * sizeof *marks);
}

/* Orders and composes the stretch in place. */
static void stretch_compose(struct stretch *s)
{
    for (size_t i = 0; i < s->n;) {
        size_t end = i;
        while (end < s->n && s->marks[end].order != 0)
            end++;
        sort_marks(s->marks + i, s->spare, end - i);
        i = end + 1;
    }
    size_t kept = 0, starter = SIZE_MAX;
    for (size_t i = 0; i < s->n; i++) {
        struct mark m = s->marks[i];
        /* A mark reaches the starter when none of its own class, or of a higher one, stands
         * between. */
        bool reaches = starter != SIZE_MAX && (kept == starter + 1 || s->marks[kept - 1].order < m.order);
        uint32_t whole = reaches ? compose(s->marks[starter].c, m.c) : 0;
        if (whole) {
            s->marks[starter].c = whole;
            continue;
        }
        if (m.order == 0)
            starter = kept;
        s->marks[kept++] = m;
    }
    s->n = kept;
}

struct output {
    char *data;
    size_t bytes, room;
};

static bool output_room(struct output *o, size_t more)
{
    if (o->room - o->bytes >= more)
        return true;
    size_t room = o->room + o->room / 2 + more + 64;
    char *data = realloc(o->data, room);
    if (!data)
        return false;
    o->data = data;
    o->room = room;
    return true;
}

/* Where the stretch that may change begins: at the last inert character before the first one that
 * is not. */
static size_t copy_length(const char *text, size_t bytes)
{
    size_t last = 0, at = 0;
    while (at < bytes && is_inert(sl_utf8_get(text + at))) {
        last = at;
        at += sl_utf8_length(text + at);
    }
    return at == bytes ? bytes : last;
}

static bool nfc_into(const char *text, size_t bytes, struct stretch *s, struct output *o)
{
    for (size_t at = 0; at < bytes;) {
        size_t copied = copy_length(text + at, bytes - at);
        if (!output_room(o, copied))
            return false;
        memcpy(o->data + o->bytes, text + at, copied);
        o->bytes += copied;
        at += copied;
        s->n = 0;
        bool first = true;
        while (at < bytes && (first || !is_inert(sl_utf8_get(text + at)))) {
            if (!stretch_add(s, sl_utf8_get(text + at)))
                return false;
            at += sl_utf8_length(text + at);
            first = false;
        }
        stretch_compose(s);
        if (!output_room(o, 4 * s->n))
            return false;
        for (size_t i = 0; i < s->n; i++)
            o->bytes += sl_utf8_put(o->data + o->bytes, s->marks[i].c);
    }
    return true;
}

sl_status sl_unicode_nfc(const char *text, size_t bytes, char **out, size_t *out_bytes)
{
    *out = NULL;
    *out_bytes = 0;
    if (copy_length(text, bytes) == bytes)
        return SL_OK;
    struct stretch stretch = {0};
    struct output output = {0};
    bool whole = output_room(&output, bytes) && nfc_into(text, bytes, &stretch, &output);
    free(stretch.marks);
    free(stretch.spare);
    if (!whole) {
        free(output.data);
        return SL_E_NOMEM;
    }
    *out = output.data;
    *out_bytes = output.bytes;
    return SL_OK;
}
