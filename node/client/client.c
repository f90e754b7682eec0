/* One client, two ways: chooses between client_local.c and client_remote.c. */
#include "node/client/client_impl.h"

#include <stdlib.h>
#include <string.h>

struct sl_client {
    struct sl_tokenizer *tokenizer;
    struct sl_local *local; /* exactly one of the two is there */
    struct sl_remote *remote;
};

sl_status sl_client_open(struct sl_client **out, const struct sl_client_config *config, struct sl_err *err)
{
    struct sl_client *client = calloc(1, sizeof *client);
    if (!client)
        return sl_fail(err, SL_E_NOMEM, "no memory for a client");
    sl_status status = config->endpoint
                           ? sl_remote_open(&client->remote, config->endpoint, &client->tokenizer, err)
                           : sl_local_open(&client->local, &config->cluster, &client->tokenizer, err);
    if (status != SL_OK) {
        sl_client_close(client);
        return status;
    }
    *out = client;
    return SL_OK;
}

const struct sl_tokenizer *sl_client_tokenizer(const struct sl_client *client)
{
    return client->tokenizer;
}

sl_status sl_client_start(struct sl_client *client, uint32_t context_tokens, struct sl_err *err)
{
    return client->local ? sl_local_start(client->local, context_tokens, err) : SL_OK;
}

sl_status sl_client_generate(struct sl_client *client, const struct sl_generate *generate, sl_answer_fn *fn,
                             void *user, struct sl_answer *answer, struct sl_err *err)
{
    memset(answer, 0, sizeof *answer);
    answer->prompt_tokens = generate->n_ids;
    return client->local ? sl_local_generate(client->local, generate, fn, user, answer, err)
                         : sl_remote_generate(client->remote, generate, fn, user, answer, err);
}

bool sl_client_cancel(struct sl_client *client)
{
    return client->local ? sl_local_cancel(client->local) : sl_remote_cancel(client->remote);
}

void sl_client_close(struct sl_client *client)
{
    if (!client)
        return;
    sl_local_close(client->local);
    sl_remote_close(client->remote);
    sl_tokenizer_destroy(client->tokenizer);
    free(client);
}
