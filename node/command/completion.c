/* Completions for bash and zsh: commands, options, and the values of those that have a list of them. The scripts hold the tables
 * as they were when they were made, so that a tab costs no process. */
#include "node/command/manual.h"
#include "node/command/options_impl.h"

#include <stdio.h>
#include <string.h>

/* "a|b" as "a b". */
static void add_choices(struct sl_text *text, const char *choices)
{
    for (; *choices; choices++)
        sl_text_add(text, "%c", *choices == '|' ? ' ' : *choices);
}

static bool names_a_file(const struct sl_option *option)
{
    static const char *const units[] = {"PATH", "FILE", "DIR"};
    for (size_t i = 0; option->unit && i < sizeof units / sizeof *units; i++)
        if (strcmp(option->unit, units[i]) == 0)
            return true;
    return strlen(option->name) > 5 && strcmp(option->name + strlen(option->name) - 5, "-file") == 0;
}

static bool is_on(const struct sl_option *option)
{
    return option->type == SL_OPT_BOOL && option->fallback && strcmp(option->fallback, "true") == 0;
}

/* A command of two words whose first word is another than that of the last one: `first` is that word. */
static bool begins_group(const struct sl_command *command, const char **last, char *first, size_t room)
{
    const char *space = strchr(command->name, ' ');
    if (!space)
        return false;
    snprintf(first, room, "%.*s", (int)(space - command->name), command->name);
    if ((*last)[0] && strncmp(*last, first, strlen(first)) == 0)
        return false;
    *last = command->name;
    return true;
}

/* The first words of names of two, once each, with those of one; or, of a first word, the second words. */
static void add_names(struct sl_text *text, const struct sl_command *const *commands, const char *first)
{
    const char *last = "";
    for (; *commands; commands++) {
        const char *name = (*commands)->name, *space = strchr(name, ' ');
        size_t bytes = space ? (size_t)(space - name) : strlen(name);
        bool again = strncmp(last, name, bytes) == 0 && last[bytes] == ' ';
        if (!first && !again)
            sl_text_add(text, "%.*s ", (int)bytes, name);
        if (first && space && strncmp(first, name, bytes) == 0 && strlen(first) == bytes)
            sl_text_add(text, "%s ", space + 1);
        last = name;
    }
}

/* ---- bash ---- */

static void add_bash_options(struct sl_text *text, const struct sl_command *command)
{
    sl_text_add(text, "    '%s') options='", command->name);
    for (const struct sl_option *option = command->options; option->name; option++)
        sl_text_add(text, is_on(option) ? "--no-%s " : "--%s ", option->name);
    sl_text_add(text, "--config --help' ;;\n");
}

static void add_bash_values(struct sl_text *text, const struct sl_command *command)
{
    for (const struct sl_option *option = command->options; option->name; option++) {
        if (option->type == SL_OPT_BOOL)
            continue; /* takes none */
        sl_text_add(text, "    '%s --%s') takes=", command->name, option->name);
        if (option->type == SL_OPT_CHOICE) {
            sl_text_add(text, "words values='");
            add_choices(text, option->choices);
            sl_text_add(text, "' ;;\n");
        } else {
            sl_text_add(text, names_a_file(option) ? "files ;;\n" : "text ;;\n");
        }
    }
}

void sl_completion_bash(struct sl_text *text, const struct sl_command *const *commands)
{
    sl_text_add(
        text,
        "# Completion of sluice(1) for bash, made by `sluice completion bash`.\n_sluice() {\n"
        "    local word=${COMP_WORDS[COMP_CWORD]} option=${COMP_WORDS[COMP_CWORD-1]} command=${COMP_WORDS[1]}\n"
        "    local options='' values='' takes='' first=2\n"
        "    COMPREPLY=()\n"
        "    if [[ $word == '=' ]]; then word=''; # bash cuts --kv=i8 into three words\n"
        "    elif [[ $option == '=' ]]; then option=${COMP_WORDS[COMP_CWORD-2]}; fi\n"
        "    if ((COMP_CWORD == 1)); then\n        COMPREPLY=($(compgen -W '");
    add_names(text, commands, NULL);
    sl_text_add(text, "--help' -- \"$word\"))\n        return\n    fi\n    case $command in\n");
    const char *last = "";
    for (const struct sl_command *const *c = commands; *c; c++) {
        char first[64];
        if (!begins_group(*c, &last, first, sizeof first))
            continue;
        sl_text_add(text, "    %s)\n        if ((COMP_CWORD == 2)); then COMPREPLY=($(compgen -W '", first);
        add_names(text, commands, first);
        sl_text_add(text,
                    "' -- \"$word\")); return; fi\n        command+=\" ${COMP_WORDS[2]}\"\n        ;;\n");
    }
    sl_text_add(text, "    esac\n    case $command in\n");
    for (const struct sl_command *const *c = commands; *c; c++)
        add_bash_options(text, *c);
    sl_text_add(
        text,
        "    *) return ;;\n    esac\n    case \"$command $option\" in\n    *' --config') takes=files ;;\n");
    for (const struct sl_command *const *c = commands; *c; c++)
        add_bash_values(text, *c);
    sl_text_add(
        text,
        "    esac\n    if [[ $takes == words ]]; then COMPREPLY=($(compgen -W \"$values\" -- \"$word\"))\n"
        "    elif [[ $takes == files ]]; then COMPREPLY=($(compgen -f -- \"$word\"))\n"
        "    elif [[ $takes == text ]]; then :\n"
        "    elif [[ $word == -* ]]; then COMPREPLY=($(compgen -W \"$options\" -- \"$word\"))\n"
        "    else COMPREPLY=($(compgen -f -- \"$word\")); fi\n}\n"
        "complete -o filenames -o bashdefault -F _sluice sluice\n");
}

/* ---- zsh ---- */

/* Within '...': what _arguments would read is escaped, and the first sentence is enough. */
static void add_zsh_words(struct sl_text *text, const char *words)
{
    for (; *words && !(words[0] == '.' && (words[1] == ' ' || !words[1])); words++) {
        if (*words == '\'')
            sl_text_add(text, "'\\''");
        else if (strchr("[]:\\", *words))
            sl_text_add(text, "\\%c", *words);
        else
            sl_text_add(text, "%c", *words);
    }
}

static void add_zsh_command(struct sl_text *text, const struct sl_command *command)
{
    sl_text_add(text, "    '%s')\n        _arguments", command->name);
    for (const struct sl_option *option = command->options; option->name; option++) {
        sl_text_add(text, is_on(option) ? " \\\n            '--no-%s[" : " \\\n            '--%s",
                    option->name);
        if (!is_on(option))
            sl_text_add(text, option->type == SL_OPT_BOOL ? "[" : "=[");
        add_zsh_words(text, option->help);
        sl_text_add(text, "]");
        if (option->type == SL_OPT_CHOICE) {
            sl_text_add(text, ":%s:(", option->name);
            add_choices(text, option->choices);
            sl_text_add(text, ")");
        } else if (option->type != SL_OPT_BOOL) {
            sl_text_add(text, ":%s:%s", option->name, names_a_file(option) ? "_files" : "");
        }
        sl_text_add(text, "'");
    }
    sl_text_add(
        text,
        " \\\n            '--config=[A YAML file of options]:file:_files' '--help[What it does, and its options]' "
        "'*:file:_files'\n        ;;\n");
}

void sl_completion_zsh(struct sl_text *text, const struct sl_command *const *commands)
{
    sl_text_add(
        text,
        "#compdef sluice\n# Completion of sluice(1) for zsh, made by `sluice completion zsh`.\n_sluice() {\n"
        "    local -a names\n    local command=$words[2]\n    if ((CURRENT == 2)); then\n        names=(");
    for (const struct sl_command *const *c = commands; *c; c++) {
        if (strchr((*c)->name, ' '))
            continue;
        sl_text_add(text, "\n            '%s:", (*c)->name);
        add_zsh_words(text, (*c)->summary);
        sl_text_add(text, "'");
    }
    sl_text_add(text, "\n            ");
    add_names(text, commands, NULL);
    sl_text_add(
        text,
        ")\n        _describe command names\n        return\n    fi\n    names=()\n    case $command in\n");
    const char *last = "";
    for (const struct sl_command *const *c = commands; *c; c++) {
        char first[64];
        if (!begins_group(*c, &last, first, sizeof first))
            continue;
        sl_text_add(text, "    %s) names=(", first);
        add_names(text, commands, first);
        sl_text_add(text, ") ;;\n");
    }
    sl_text_add(
        text,
        "    esac\n    if (($#names)); then\n        if ((CURRENT == 3)); then _describe command names; return; fi\n"
        "        command+=\" $words[3]\"\n        shift words\n        ((CURRENT--))\n    fi\n"
        "    shift words\n    ((CURRENT--))\n    case $command in\n");
    for (const struct sl_command *const *c = commands; *c; c++)
        add_zsh_command(text, *c);
    sl_text_add(
        text,
        "    esac\n}\nif [[ $funcstack[1] == _sluice ]]; then _sluice \"$@\"; else compdef _sluice sluice; fi\n");
}
