/* Pages in man(7). What the tables say is text, not markup: whatever roff would read is escaped. */
#include "node/command/manual.h"
#include "node/command/options_impl.h"

#include <stdio.h>
#include <string.h>

/* A hyphen that is typed is \-; a line must not begin with a control character; a backslash is itself. */
static void add_text(struct sl_text *text, const char *words)
{
    if (words[0] == '.' || words[0] == '\'')
        sl_text_add(text, "\\&");
    for (; *words; words++) {
        if (*words == '\\')
            sl_text_add(text, "\\e");
        else if (*words == '-')
            sl_text_add(text, "\\-");
        else if (*words == '\n')
            sl_text_add(text, " ");
        else
            sl_text_add(text, "%c", *words);
    }
}

static void add_line(struct sl_text *text, const char *macro, const char *words)
{
    sl_text_add(text, "%s", macro);
    add_text(text, words);
    sl_text_add(text, "\n");
}

void sl_manual_name(char out[80], const struct sl_command *command)
{
    snprintf(out, 80, command ? "sluice-%.60s.1" : "sluice.1", command ? command->name : "");
    for (char *at = out; *at; at++)
        *at = *at == ' ' ? '-' : *at;
}

static void add_head(struct sl_text *text, const struct sl_command *command, const char *summary)
{
    char name[80];
    sl_manual_name(name, command);
    name[strlen(name) - 2] = 0;
    sl_text_add(text, ".\\\" made by `sluice man`\n.TH \"");
    for (const char *at = name; *at; at++)
        sl_text_add(text, "%c", *at >= 'a' && *at <= 'z' ? *at - 'a' + 'A' : *at);
    sl_text_add(text, "\" 1 \"\" \"sluice " SLUICE_VERSION "\" \"User Commands\"\n.SH NAME\n");
    add_text(text, name);
    sl_text_add(text, " \\- ");
    add_line(text, "", summary);
    sl_text_add(text, ".SH SYNOPSIS\n");
}

static void add_options(struct sl_text *text, const struct sl_command *command)
{
    char line[SL_OPTION_LINE], variable[SL_OPTION_NAME];
    sl_text_add(text, ".SH OPTIONS\n");
    for (const struct sl_option *option = command->options; option->name; option++) {
        sl_text_add(text, ".TP\n\\fB\\-\\-");
        add_text(text, option->name);
        sl_text_add(text, "\\fR");
        if (sl_option_placeholder(option)[0]) {
            sl_text_add(text, " \\fI");
            add_text(text, sl_option_placeholder(option));
            sl_text_add(text, "\\fR");
        }
        sl_text_add(text, "\n");
        sl_option_text(option, line);
        add_line(text, "", line);
        sl_option_variable(variable, option->name);
        sl_text_add(text, "(\\fB");
        add_text(text, variable);
        sl_text_add(text, "\\fR)\n");
    }
    sl_text_add(
        text,
        ".TP\n\\fB\\-\\-config\\fR \\fIFILE\\fR\nA YAML file of lines \\fIoption\\fR: \\fIvalue\\fR.\n(\\fBSLUICE_CONFIG\\fR)\n"
        ".TP\n\\fB\\-\\-help\\fR\nWhat this page says, shorter.\n");
}

static void add_tail(struct sl_text *text)
{
    static const struct {
        int code;
        const char *means;
    } codes[] = {{0, "done"},
                 {1, "what a request got: it was refused, or ended with an error"},
                 {64, "the command line is wrong"},
                 {65, "a file, or a value in a request, is not what it must be"},
                 {69, "a port, a peer or a device is not there"},
                 {70, "a fault of sluice"},
                 {74, "a file could not be read or written"},
                 {77, "who asked has not proved that he may"},
                 {78, "the environment or a configuration file is wrong"}};
    sl_text_add(text, ".SH EXIT STATUS\n");
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
        sl_text_add(text, ".TP\n\\fB%d\\fR\n", codes[i].code);
        add_line(text, "", codes[i].means);
    }
}

static void add_overview(struct sl_text *text, const struct sl_command *const *commands)
{
    add_head(text, NULL, "serve Mixture-of-Experts models by a pipeline of nodes");
    sl_text_add(text,
                "\\fBsluice\\fR \\fICOMMAND\\fR [\\fIarguments\\fR] [\\fIoptions\\fR]\n.SH DESCRIPTION\n");
    add_line(
        text, "",
        "Prompts are prefilled by a pipeline of nodes that each hold a range of layers with all their experts. Every option can "
        "come from the command line, the environment (SLUICE_ and its name) or a YAML file (--config): the command line wins, "
        "then the environment. Whole numbers may be written 4k (4000), 4K (4096), 1M.");
    sl_text_add(text, ".SH COMMANDS\n");
    for (const struct sl_command *const *c = commands; *c; c++) {
        char name[80];
        sl_manual_name(name, *c);
        name[strlen(name) - 2] = 0;
        sl_text_add(text, ".TP\n\\fB");
        add_text(text, name);
        sl_text_add(text, "\\fR(1)\n");
        add_line(text, "", (*c)->summary);
    }
    add_tail(text);
}

void sl_manual_page(struct sl_text *text, const struct sl_command *const *commands,
                    const struct sl_command *command)
{
    if (!command) {
        add_overview(text, commands);
        return;
    }
    add_head(text, command, command->summary);
    sl_text_add(text, "\\fBsluice ");
    add_text(text, command->name);
    sl_text_add(text, "\\fR ");
    if (command->arguments[0]) {
        sl_text_add(text, "\\fI");
        add_text(text, command->arguments);
        sl_text_add(text, "\\fR ");
    }
    sl_text_add(text, "[\\fIoptions\\fR]\n.SH DESCRIPTION\n");
    add_line(text, "", command->description);
    add_options(text, command);
    add_tail(text);
    sl_text_add(text, ".SH SEE ALSO\n\\fBsluice\\fR(1)\n");
}
