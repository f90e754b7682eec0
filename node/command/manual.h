/* Man pages and shell completions, made from the tables that --help is made from, so that none of the three can know an option that
 * another does not. */
#ifndef SL_NODE_COMMAND_MANUAL_H
#define SL_NODE_COMMAND_MANUAL_H

#include "base/text.h"
#include "node/command/options.h"

/* The page of one command, "sluice-bench-kernels.1"; of none (NULL): "sluice.1", which lists them all. */
void sl_manual_name(char out[80], const struct sl_command *command);
void sl_manual_page(struct sl_text *text, const struct sl_command *const *commands,
                    const struct sl_command *command);

void sl_completion_bash(struct sl_text *text, const struct sl_command *const *commands);
void sl_completion_zsh(struct sl_text *text, const struct sl_command *const *commands);

#endif
