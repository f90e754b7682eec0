/* One option table, four sources. Each source only supplies text: the command line first, then
 * SLUICE_..., then the file of --config, then the table's default. The first text that an option
 * got is the one that counts; it is converted and checked once, in one place, so that all sources
 * accept the same spellings and an error names the source it came from. */
#include "node/command/options_impl.h"

#include <ctype.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_OPTIONS = 64, NAME_ROOM = SL_OPTION_NAME };

enum value_source { FROM_DEFAULT, FROM_COMMAND_LINE, FROM_ENVIRONMENT, FROM_FILE };

struct given {
    const char *text; /* NULL: nothing said so far */
    enum value_source source;
};

struct parse {
    const struct sl_command *command;
    uint32_t n_options;
    struct given given[MAX_OPTIONS];
    const char *config; /* --config */
};

/* Strings out of a file: kept for as long as the process lives, like argv and the environment. */
struct kept {
    struct kept *next;
    char text[];
};
static struct kept *all_kept;

static const char *keep(const char *text)
{
    size_t bytes = strlen(text) + 1;
    struct kept *kept = malloc(sizeof *kept + bytes);
    if (!kept)
        return NULL;
    memcpy(kept->text, text, bytes);
    kept->next = all_kept;
    all_kept = kept;
    return kept->text;
}

static const char *keep_joined(const char *first, const char *second)
{
    char *joined;
    if (asprintf(&joined, "%s,%s", first, second) < 0)
        return NULL;
    const char *kept = keep(joined);
    free(joined);
    return kept;
}

/* ---- Finding names, and guessing what was meant. ---- */

uint32_t sl_option_distance(const char *a, const char *b)
{
    uint32_t row[NAME_ROOM];
    size_t n = strlen(b);
    if (n >= NAME_ROOM || strlen(a) >= NAME_ROOM)
        return NAME_ROOM;
    for (uint32_t j = 0; j <= n; j++)
        row[j] = j;
    for (uint32_t i = 1; a[i - 1]; i++) {
        uint32_t diagonal = row[0];
        row[0] = i;
        for (uint32_t j = 1; j <= n; j++) {
            uint32_t best = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            best = row[j] + 1 < best ? row[j] + 1 : best;
            row[j] = row[j - 1] + 1 < best ? row[j - 1] + 1 : best;
        }
    }
    return row[n];
}

static int find_option(const struct parse *p, const char *name, size_t bytes)
{
    for (uint32_t i = 0; i < p->n_options; i++) {
        const char *known = p->command->options[i].name;
        if (strlen(known) == bytes && memcmp(known, name, bytes) == 0)
            return (int)i;
    }
    return -1;
}

static sl_status unknown(const struct parse *p, const char *where, const char *name, sl_status status,
                         struct sl_err *err)
{
    const struct sl_foreign_option *foreign = sl_foreign_option_find(name);
    if (foreign && !foreign->ours)
        return sl_fail(err, status, "there is no option %s%s: %s", where, name, foreign->note);
    if (foreign && find_option(p, foreign->ours, strlen(foreign->ours)) >= 0)
        return sl_fail(err, status, "there is no option %s%s; here it is %s%s %s", where, name, where,
                       foreign->ours, foreign->note);
    const char *nearest = NULL;
    uint32_t least = 4;
    for (uint32_t i = 0; i < p->n_options; i++) {
        uint32_t d = sl_option_distance(name, p->command->options[i].name);
        if (d < least) {
            least = d;
            nearest = p->command->options[i].name;
        }
    }
    if (nearest)
        return sl_fail(err, status, "there is no option %s%.80s; did you mean %s%s?", where, name, where,
                       nearest);
    return sl_fail(err, status, "there is no option %s%.80s; `sluice %s --help` lists them", where, name,
                   p->command->name);
}

/* ---- The sources. ---- */

/* One "--name[=value]"; *i moves over a value that stands in an argument of its own. */
static sl_status take_argument(struct parse *p, int argc, char **argv, int *i, struct sl_err *err)
{
    const char *name = argv[*i] + 2, *equals = strchr(name, '=');
    size_t bytes = equals ? (size_t)(equals - name) : strlen(name);
    const char *value = equals ? equals + 1 : NULL;
    bool is_config = bytes == 6 && memcmp(name, "config", 6) == 0;
    int at = find_option(p, name, bytes);
    if (at < 0 && !is_config) {
        int negated =
            bytes > 3 && memcmp(name, "no-", 3) == 0 && !equals ? find_option(p, name + 3, bytes - 3) : -1;
        if (negated >= 0 && p->command->options[negated].type == SL_OPT_BOOL) {
            p->given[negated] = (struct given){"false", FROM_COMMAND_LINE};
            return SL_OK;
        }
        char copy[NAME_ROOM];
        snprintf(copy, sizeof copy, "%.*s", (int)(bytes < NAME_ROOM ? bytes : NAME_ROOM - 1), name);
        return unknown(p, "--", copy, SL_E_USAGE, err);
    }
    if (!value && at >= 0 && p->command->options[at].type == SL_OPT_BOOL)
        value = "true";
    if (!value) {
        if (*i + 1 >= argc || strncmp(argv[*i + 1], "--", 2) == 0)
            return sl_fail(err, SL_E_USAGE, "--%.*s needs a value; write --%.*s=VALUE", (int)bytes, name,
                           (int)bytes, name);
        value = argv[++*i];
    }
    if (at >= 0 && p->given[at].text && p->command->options[at].type == SL_OPT_LIST)
        value = keep_joined(p->given[at].text, value);
    if (!value)
        return sl_fail(err, SL_E_NOMEM, "no memory to read the command line");
    if (at >= 0)
        p->given[at] = (struct given){value, FROM_COMMAND_LINE};
    else
        p->config = value;
    return SL_OK;
}

static sl_status take_command_line(struct parse *p, int argc, char **argv, const char **args,
                                   uint32_t *n_args, bool *help, struct sl_err *err)
{
    bool only_arguments = false;
    for (int i = 1; i < argc; i++) {
        const char *word = argv[i];
        if (!only_arguments && strcmp(word, "--") == 0) {
            only_arguments = true;
        } else if (!only_arguments && (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0)) {
            *help = true;
            return SL_OK;
        } else if (!only_arguments && strncmp(word, "--", 2) == 0) {
            SL_TRY(take_argument(p, argc, argv, &i, err));
        } else if (!only_arguments && word[0] == '-' && word[1] != '\0') {
            return sl_fail(err, SL_E_USAGE, "%.80s is not an option; options begin with two dashes", word);
        } else if (*n_args == p->command->max_args) {
            return sl_fail(err, SL_E_USAGE, "\"%.80s\" is one argument too many; the form is `sluice %s %s`",
                           word, p->command->name, p->command->arguments);
        } else {
            args[(*n_args)++] = word;
        }
    }
    return SL_OK;
}

static void take_environment(struct parse *p)
{
    for (uint32_t i = 0; i < p->n_options; i++) {
        char name[NAME_ROOM];
        sl_option_variable(name, p->command->options[i].name);
        const char *value = getenv(name);
        if (!p->given[i].text && value && value[0] != '\0')
            p->given[i] = (struct given){value, FROM_ENVIRONMENT};
    }
}

static sl_status take_pair(void *user, const char *key, const char *value, struct sl_err *err)
{
    struct parse *p = user;
    int at = find_option(p, key, strlen(key));
    if (at < 0) {
        unknown(p, "", key, SL_E_CONFIG, err);
        return sl_err_prefix(err, "%s", p->config);
    }
    if (p->given[at].source == FROM_FILE)
        return sl_fail(err, SL_E_CONFIG, "%s says %s twice; keep one", p->config, key);
    if (p->given[at].text)
        return SL_OK;
    const char *kept = keep(value);
    if (!kept)
        return sl_fail(err, SL_E_NOMEM, "no memory to read %s", p->config);
    p->given[at] = (struct given){kept, FROM_FILE};
    return SL_OK;
}

/* ---- From text to the field. ---- */

/* "--threads", "SLUICE_THREADS", "threads in F": what to point at in an error. */
static void origin(char out[160], const struct parse *p, uint32_t i)
{
    char name[NAME_ROOM];
    switch (p->given[i].source) {
    case FROM_ENVIRONMENT:
        sl_option_variable(name, p->command->options[i].name);
        snprintf(out, 160, "%s", name);
        break;
    case FROM_FILE:
        snprintf(out, 160, "%s in %.90s", p->command->options[i].name, p->config);
        break;
    default:
        snprintf(out, 160, "--%s", p->command->options[i].name);
    }
}

static void accepted(char out[160], const struct sl_option *option)
{
    bool bounded = option->minimum != 0 || option->maximum != 0;
    const char *kind = option->type == SL_OPT_UINT ? "a whole number" : "a number";
    if (option->type == SL_OPT_BOOL)
        snprintf(out, 160, "true or false");
    else if (option->type == SL_OPT_CHOICE)
        snprintf(out, 160, "one of %s", option->choices);
    else if (option->type == SL_OPT_ADDRESS)
        snprintf(out, 160, "HOST:PORT (an IPv6 host in brackets, a port of 0 to 65535)");
    else if (bounded)
        snprintf(out, 160, "%s from %.10g to %.10g", kind, option->minimum, option->maximum);
    else
        snprintf(out, 160, "%s", kind);
}

/* 4096, 4k, 4K, 1.5M: the suffix is a power of 1000 in lower case, of 1024 in upper case; the
 * product must be whole. */
static bool parse_uint(const char *text, double *out)
{
    static const struct {
        char suffix;
        double factor;
    } suffixes[] = {{'k', 1e3}, {'m', 1e6}, {'g', 1e9}, {'K', 1024}, {'M', 1048576}, {'G', 1073741824}};
    if (!isdigit((unsigned char)text[0]) || strlen(text) > 20 ||
        strspn(text, "0123456789.kmgKMG") != strlen(text))
        return false;
    char *end;
    double value = strtod(text, &end);
    for (size_t i = 0; *end && i < sizeof suffixes / sizeof suffixes[0]; i++) {
        if (*end == suffixes[i].suffix && end[1] == '\0') {
            value *= suffixes[i].factor;
            end++;
            break;
        }
    }
    if (*end || value > UINT32_MAX || fabs(value - nearbyint(value)) > 1e-6)
        return false;
    *out = nearbyint(value);
    return true;
}

static bool parse_bool(const char *text, bool *out)
{
    static const char *const words[2][4] = {{"false", "no", "off", "0"}, {"true", "yes", "on", "1"}};
    for (int truth = 0; truth < 2; truth++)
        for (int i = 0; i < 4; i++)
            if (strcmp(text, words[truth][i]) == 0) {
                *out = truth == 1;
                return true;
            }
    return false;
}

static bool is_choice(const char *text, const char *choices)
{
    size_t bytes = strlen(text);
    for (const char *at = choices; bytes > 0 && !strchr(text, '|') && at;
         at = strchr(at, '|') ? strchr(at, '|') + 1 : NULL)
        if (strncmp(at, text, bytes) == 0 && (at[bytes] == '|' || at[bytes] == '\0'))
            return true;
    return false;
}

static bool is_address(const char *text)
{
    const char *colon = strrchr(text, ':');
    if (!colon || colon == text || strlen(text) > 255)
        return false;
    bool brackets = text[0] == '[' && colon[-1] == ']';
    if (!brackets && memchr(text, ':', (size_t)(colon - text)))
        return false;
    for (const char *c = text; *c; c++)
        if ((unsigned char)*c <= ' ')
            return false;
    size_t digits = strspn(colon + 1, "0123456789");
    return digits > 0 && digits <= 5 && colon[1 + digits] == '\0' && atol(colon + 1) <= 65535;
}

static bool in_bounds(const struct sl_option *option, double value)
{
    if (option->minimum == 0 && option->maximum == 0)
        return true;
    return value >= option->minimum && value <= option->maximum;
}

static bool assign(const struct sl_option *option, const char *text, uint8_t *field)
{
    double number;
    char *end;
    switch (option->type) {
    case SL_OPT_UINT:
        if (!parse_uint(text, &number) || !in_bounds(option, number))
            return false;
        *(uint32_t *)(void *)field = (uint32_t)number;
        return true;
    case SL_OPT_FLOAT:
        number = strtod(text, &end);
        if (end == text || *end || !isfinite(number) || !in_bounds(option, number))
            return false;
        *(double *)(void *)field = number;
        return true;
    case SL_OPT_BOOL:
        return parse_bool(text, (bool *)field);
    case SL_OPT_CHOICE:
        if (!is_choice(text, option->choices))
            return false;
        break;
    case SL_OPT_ADDRESS:
        if (!is_address(text))
            return false;
        break;
    case SL_OPT_STRING:
    case SL_OPT_LIST:
        break;
    }
    *(const char **)(void *)field = text;
    return true;
}

/* Kubernetes sets SLUICE_X_PORT to tcp://ADDRESS:PORT for a Service that is called sluice-x, and somebody wonders who did. */
static const char *whose(const struct parse *p, uint32_t i)
{
    bool link = p->given[i].source == FROM_ENVIRONMENT && strncmp(p->given[i].text, "tcp://", 6) == 0;
    return link
               ? ", and this is what Kubernetes sets for a Service of that name: say enableServiceLinks: false"
               : "";
}

static sl_status convert_all(const struct parse *p, uint8_t *values, struct sl_err *err)
{
    for (uint32_t i = 0; i < p->n_options; i++) {
        const struct sl_option *option = &p->command->options[i];
        const char *text = p->given[i].text ? p->given[i].text : option->fallback;
        if (!text || assign(option, text, values + option->offset))
            continue;
        char where[160], wanted[160];
        origin(where, p, i);
        accepted(wanted, option);
        bool typed = p->given[i].source == FROM_COMMAND_LINE || p->given[i].source == FROM_DEFAULT;
        return sl_fail(err, typed ? SL_E_USAGE : SL_E_CONFIG, "%s is \"%.60s\"; it takes %s%s", where, text,
                       wanted, whose(p, i));
    }
    return SL_OK;
}

sl_status sl_options_parse(const struct sl_command *command, int argc, char **argv, void *values,
                           const char **args, uint32_t *n_args, bool *help, struct sl_err *err)
{
    struct parse p = {.command = command};
    while (command->options[p.n_options].name)
        if (++p.n_options > MAX_OPTIONS)
            return sl_fail(err, SL_E_INTERNAL, "the option table of %s has more than %d rows", command->name,
                           MAX_OPTIONS);
    memset(values, 0, command->struct_bytes);
    *n_args = 0;
    *help = false;
    SL_TRY(take_command_line(&p, argc, argv, args, n_args, help, err));
    if (*help)
        return SL_OK;
    if (*n_args < command->min_args)
        return sl_fail(err, SL_E_USAGE, "%s is missing; the form is `sluice %s %s`",
                       command->min_args == 1 ? "an argument" : "one of the arguments", command->name,
                       command->arguments);
    take_environment(&p);
    const char *environment_config = getenv("SLUICE_CONFIG");
    if (!p.config && environment_config && environment_config[0] != '\0')
        p.config = environment_config;
    if (p.config)
        SL_TRY(sl_options_file_read(p.config, take_pair, &p, err));
    return convert_all(&p, values, err);
}

/* ---- Help. ---- */

const char *sl_option_placeholder(const struct sl_option *option)
{
    switch (option->type) {
    case SL_OPT_UINT:
        return "N";
    case SL_OPT_FLOAT:
        return "X";
    case SL_OPT_ADDRESS:
        return "HOST:PORT";
    case SL_OPT_CHOICE:
        return option->choices;
    case SL_OPT_STRING:
    case SL_OPT_LIST:
        return option->unit ? option->unit : "TEXT";
    case SL_OPT_BOOL:
        break;
    }
    return "";
}

/* Words of text, broken before column 100 and where the text itself is, later lines indented. */
static void print_wrapped(const char *text, int column, int indent, FILE *to)
{
    while (*text) {
        int blanks = (int)strspn(text, " "), bytes = (int)strcspn(text + blanks, " \n");
        text += blanks;
        if (column > indent && column + blanks + bytes > 99) {
            fprintf(to, "\n%*s", indent, "");
            column = indent;
            blanks = 0;
        }
        fprintf(to, "%*s%.*s", blanks, "", bytes, text);
        column += blanks + bytes;
        text += bytes;
        if (*text == '\n') {
            fprintf(to, "\n%*s", text[1] == '\n' ? 0 : indent, "");
            column = indent;
            text++;
        }
    }
    fputc('\n', to);
}

void sl_option_text(const struct sl_option *option, char line[SL_OPTION_LINE])
{
    int n = snprintf(line, SL_OPTION_LINE, "%s", option->help);
    bool unit = option->unit && option->type != SL_OPT_STRING && option->type != SL_OPT_LIST;
    if (option->fallback && option->type != SL_OPT_BOOL)
        n += snprintf(line + n, SL_OPTION_LINE - (size_t)n, " Default: %s%s%s.", option->fallback,
                      unit ? " " : "", unit ? option->unit : "");
    else if (unit)
        n += snprintf(line + n, SL_OPTION_LINE - (size_t)n, " In %s.", option->unit);
    if (option->minimum != 0 || option->maximum != 0)
        snprintf(line + n, SL_OPTION_LINE - (size_t)n, " From %.10g to %.10g.", option->minimum,
                 option->maximum);
}

static void print_option(const struct sl_option *option, FILE *to)
{
    enum { INDENT = 34 };
    char line[SL_OPTION_LINE];
    int n = snprintf(line, sizeof line, "  --%s %s", option->name, sl_option_placeholder(option));
    fprintf(to, n < INDENT ? "%-34s" : "%s\n                                  ", line);
    sl_option_text(option, line);
    print_wrapped(line, INDENT, INDENT, to);
}

void sl_options_help(const struct sl_command *command, FILE *to)
{
    fprintf(to, "Usage: sluice %s %s%s[options]\n\n", command->name, command->arguments,
            command->arguments[0] ? " " : "");
    print_wrapped(command->description, 0, 0, to);
    if (command->options[0].name)
        fputs("\nOptions:\n", to);
    for (const struct sl_option *option = command->options; option->name; option++)
        print_option(option, to);
    fputs("\nEach option can also come from the environment (--max-tokens: SLUICE_MAX_TOKENS) or "
          "from a\n"
          "YAML file of `option: value` lines (--config FILE); the command line wins, then the "
          "environment.\n"
          "Whole numbers may be written 4k (4000), 4K (4096), 1M.\n",
          to);
}
