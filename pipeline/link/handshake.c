/* Who may talk: the handshake of a line, from the first byte to the link that is up.
 *
 * A line is called into being for a link by its id, and answered at the address that this link's peer was planned to have.
 * HELLO(link id, nonce) -> WELCOME(nonce, MAC, id) -> WELCOME(MAC, id) -> CREDIT. Both MACs are taken with the link's key over a
 * label, the link id, its epoch, how its frames prove who sent them (auth.c), the wire version, both nonces, from how many bytes on
 * rows travel beside the line, and the ids that were told by then (zeros where no rows do); no slot is lent and no data frame is taken
 * before. HELLO names the epoch in its header and is refused when the link here is of another. It keeps out mistakes and stale
 * peers, not an attacker on the wire.
 *
 * Where rows travel beside the line (transport_beside.c), each end tells the id under which the other meets it for the rows that it
 * sends. Both begin as soon as they have both ids; the one who was called gives credit when they have met, so that a link which is
 * up can carry rows, and one whose rows find no way is as good as one whose line does not come about. */
#include "pipeline/link/link_impl.h"

#include "base/bytes.h"
#include "base/digest.h"

#include <assert.h>
#include <stdlib.h>

static struct sl_conn *conn_create(struct sl_hub *hub, enum sl_conn_state state)
{
    struct sl_conn *conn = calloc(1, sizeof *conn);
    if (!conn)
        return NULL;
    conn->hub = hub;
    conn->state = state;
    conn->opened_ms = conn->heard_ms = hub->now_ms;
    conn->control_in.conn = conn;
    conn->control_in.to = conn->control_body;
    uint8_t *nonce = state == SL_CONN_ACCEPTED ? conn->nonce_server : conn->nonce_client;
    if (sl_random_bytes(nonce, SL_NONCE_BYTES) != SL_OK) {
        free(conn);
        return NULL;
    }
    return conn;
}

static void conn_insert(struct sl_conn *conn)
{
    conn->next = conn->hub->conns;
    conn->hub->conns = conn;
}

static struct sl_link *find_expected(struct sl_hub *hub, uint64_t id)
{
    for (uint32_t i = 0; i < SL_LINKS_MAX; i++) {
        struct sl_link *link = hub->links[i];
        if (link && link->config.id == id && !link->dials && link->state != SL_LINK_OVER && !link->leaving)
            return link;
    }
    return NULL;
}

const struct sl_io_address *sl_hub_awaits(struct sl_hub *hub, uint64_t id)
{
    const struct sl_link *link = find_expected(hub, id);
    if (!link)
        sl_hub_refused(hub);
    return link ? &link->peer : NULL;
}

void sl_hub_refused(struct sl_hub *hub)
{
    sl_hub_count(&hub->refusals, 1);
}

struct sl_conn *sl_hub_accept(struct sl_hub *hub, struct sl_line *line, uint64_t link_id)
{
    uint32_t half_open = 0;
    for (struct sl_conn *c = hub->conns; c; c = c->next)
        half_open += c->state == SL_CONN_ACCEPTED || c->state == SL_CONN_GREETED;
    if (half_open >= SL_HALF_OPEN_MAX || hub->closing)
        return NULL;
    struct sl_conn *conn = conn_create(hub, SL_CONN_ACCEPTED);
    if (!conn)
        return NULL;
    conn->line = line;
    conn->link_id = link_id;
    conn_insert(conn);
    return conn;
}

static uint64_t beside_of(const struct sl_hub *hub, const struct sl_link *link)
{
    return link->config.rows_beside ? hub->ops->beside(hub->transport) : 0;
}

sl_status sl_link_dial(struct sl_hub *hub, struct sl_link *link)
{
    struct sl_conn *conn = conn_create(hub, SL_CONN_DIALED);
    if (!conn)
        return SL_E_NOMEM;
    sl_status status = hub->ops->connect(hub->transport, link->config.id, &link->peer, conn, &conn->line);
    if (status != SL_OK) {
        free(conn);
        return status;
    }
    conn_insert(conn);
    conn->link = link;
    conn->link_id = link->config.id;
    conn->epoch = link->config.epoch;
    conn->auth = link->config.auth;
    conn->beside = beside_of(hub, link);
    link->conn = conn;
    uint8_t hello[SL_CONTROL_BYTES] = {0};
    sl_put64(hello, conn->link_id);
    memcpy(hello + 8, conn->nonce_client, SL_NONCE_BYTES);
    sl_put64(hello + 8 + SL_NONCE_BYTES, conn->beside);
    sl_conn_control(conn, SL_WIRE_HELLO, 0, hello);
    return SL_OK;
}

static void mac_of(const struct sl_conn *conn, const uint8_t key[32], const char *label,
                   uint8_t mac[SL_MAC_BYTES])
{
    uint8_t text[8 + 8 + 8 + 1 + 2 + 2 * SL_NONCE_BYTES + 8 + 2 * SL_BESIDE_ID_BYTES] = {0};
    struct sl_cursor c = sl_cursor_over(text, sizeof text);
    sl_cursor_put(&c, label, 8);
    sl_cursor_put64(&c, conn->link_id);
    sl_cursor_put64(&c, conn->epoch);
    sl_cursor_put8(&c, (uint8_t)conn->auth);
    sl_cursor_put16(&c, SL_WIRE_VERSION);
    sl_cursor_put(&c, conn->nonce_client, SL_NONCE_BYTES);
    sl_cursor_put(&c, conn->nonce_server, SL_NONCE_BYTES);
    sl_cursor_put64(&c, conn->beside);
    sl_cursor_put(&c, conn->id_server, SL_BESIDE_ID_BYTES);
    sl_cursor_put(&c, conn->id_client, SL_BESIDE_ID_BYTES);
    assert(!c.bad && c.at == c.end);
    sl_hmac_sha256(key, text, sizeof text, mac);
}

static bool mac_is(const struct sl_conn *conn, const uint8_t key[32], const char *label, const uint8_t *mac)
{
    uint8_t expected[SL_MAC_BYTES];
    mac_of(conn, key, label, expected);
    return sl_equal_constant_time(expected, mac, sizeof expected);
}

/* Labels of eight bytes, one for each direction, so that no proof can be played back to its maker.
 */
static const char server_label[] = "slserver", client_label[] = "slclient", server_key_label[] = "slkeysrv",
                  client_key_label[] = "slkeycli";

/* Of frames from now on. */
static bool agree(struct sl_conn *conn, const uint8_t key[32], bool is_server)
{
    uint8_t server[SL_MAC_BYTES], client[SL_MAC_BYTES];
    mac_of(conn, key, server_key_label, server);
    mac_of(conn, key, client_key_label, client);
    return is_server ? sl_conn_agree(conn, server, client) : sl_conn_agree(conn, client, server);
}

void sl_conn_refuse(struct sl_conn *conn, const char *reason)
{
    sl_hub_count(&conn->hub->refusals, 1);
    sl_conn_fail(conn, SL_E_REFUSED, reason);
}

enum { ID_AT = SL_NONCE_BYTES + SL_MAC_BYTES }; /* in WELCOME */

static bool offer(struct sl_conn *conn, uint8_t id[SL_BESIDE_ID_BYTES])
{
    if (!conn->beside || conn->hub->ops->offer(conn->line, conn, id))
        return true;
    sl_conn_refuse(conn, "there is no id for rows beside the link; the log says why");
    return false;
}

static void conn_open(struct sl_conn *conn, struct sl_link *link)
{
    conn->state = SL_CONN_OPEN;
    conn->link = link;
    link->conn = conn;
    link->state = SL_LINK_UP;
    link->granted_to_peer = link->delivered + link->n_free;
    if (conn->hub->ops->one_clock)
        sl_link_set_clock(link, 0, 0);
    sl_hub_count(&conn->hub->links_up, 1);
    struct sl_note n = {.kind = SL_NOTE_UP, .link = link};
    if (link->broken)
        sl_link_set_silent(conn->hub, link, false); /* it carries on: nobody needs to know more */
    else
        sl_hub_note(conn->hub, &n);
    link->broken = false;
    sl_conn_credit(conn);
}

void sl_conn_on_hello(struct sl_conn *conn, const struct sl_wire *wire, const uint8_t *body)
{
    if (conn->state != SL_CONN_ACCEPTED) {
        sl_conn_fail(conn, SL_E_PROTOCOL, "HELLO in the middle of a connection");
        return;
    }
    if (sl_get64(body) != conn->link_id) {
        sl_conn_refuse(conn, "HELLO names another link than the call");
        return;
    }
    memcpy(conn->nonce_client, body + 8, SL_NONCE_BYTES);
    struct sl_link *link = find_expected(conn->hub, conn->link_id);
    if (!link || wire->epoch != link->config.epoch) {
        sl_conn_refuse(conn,
                       link ? "the peer names another epoch of the link" : "the peer names an unknown link");
        return;
    }
    conn->epoch = link->config.epoch;
    conn->auth = link->config.auth;
    conn->beside = beside_of(conn->hub, link);
    if (sl_get64(body + 8 + SL_NONCE_BYTES) != conn->beside) {
        sl_conn_refuse(conn, "the peer has rows travel another way (--rows)");
        return;
    }
    if (!offer(conn, conn->id_server))
        return;
    if (!agree(conn, link->config.key, true)) {
        sl_conn_fail(conn, SL_E_NOMEM, "there is no memory for the keys of a line");
        return;
    }
    uint8_t answer[SL_WELCOME_BYTES] = {0};
    memcpy(answer, conn->nonce_server, SL_NONCE_BYTES);
    mac_of(conn, link->config.key, server_label, answer + SL_NONCE_BYTES);
    memcpy(answer + ID_AT, conn->id_server, SL_BESIDE_ID_BYTES);
    conn->state = SL_CONN_GREETED;
    sl_conn_control(conn, SL_WIRE_WELCOME, 0, answer);
}

/* The link of a proved line, as it is by now: it may have gone, or come up over another line, since the HELLO. */
static struct sl_link *link_to_open(struct sl_conn *conn)
{
    struct sl_link *link = find_expected(conn->hub, conn->link_id);
    if (!link) {
        sl_conn_refuse(conn, "the link is not expected any more");
        return NULL;
    }
    if (link->conn) { /* its line broke, and the peer has seen it first: it will come again */
        sl_conn_broken(link->conn, SL_E_PEER_LOST, "the peer came over another line");
        sl_conn_fail(conn, SL_E_PEER_LOST, "the line before this one has yet to end");
        return NULL;
    }
    return link;
}

/* Of both ends: from now on rows can go, or soon, or the line is at fault. */
static sl_status join(struct sl_conn *conn, const uint8_t id[SL_BESIDE_ID_BYTES])
{
    sl_status status = conn->beside ? conn->hub->ops->join(conn, id) : SL_OK;
    conn->joins = status == SL_AGAIN;
    if (status != SL_OK && status != SL_AGAIN)
        sl_conn_refuse(conn, "the way for rows beside the link cannot be opened; the log says why");
    return status;
}

void sl_conn_joined(struct sl_conn *conn)
{
    if (conn->state != SL_CONN_JOINING || conn->fault || conn->hung_up)
        return; /* the one who called is up by the other's credit */
    struct sl_link *link = link_to_open(conn);
    if (link)
        conn_open(conn, link);
}

static void on_proof(struct sl_conn *conn, const uint8_t *body)
{
    struct sl_link *link = find_expected(conn->hub, conn->link_id);
    memcpy(conn->id_client, body + ID_AT, SL_BESIDE_ID_BYTES);
    if (!link || !mac_is(conn, link->config.key, client_label, body + SL_NONCE_BYTES)) {
        sl_conn_refuse(conn, "the peer has another key");
        return;
    }
    link = link_to_open(conn);
    sl_status joined = link ? join(conn, conn->id_client) : SL_E_PEER_LOST;
    if (joined == SL_AGAIN)
        conn->state = SL_CONN_JOINING;
    else if (joined == SL_OK)
        conn_open(conn, link);
}

void sl_conn_on_welcome(struct sl_conn *conn, const uint8_t *body)
{
    if (conn->state == SL_CONN_GREETED) {
        on_proof(conn, body);
    } else if (conn->state == SL_CONN_DIALED) {
        memcpy(conn->nonce_server, body, SL_NONCE_BYTES);
        memcpy(conn->id_server, body + ID_AT, SL_BESIDE_ID_BYTES);
        if (!mac_is(conn, conn->link->config.key, server_label, body + SL_NONCE_BYTES)) {
            sl_conn_refuse(conn, "the peer has another key");
            return;
        }
        if (!agree(conn, conn->link->config.key, false)) {
            sl_conn_fail(conn, SL_E_NOMEM, "there is no memory for the keys of a line");
            return;
        }
        if (!offer(conn, conn->id_client))
            return;
        sl_status joined = join(conn, conn->id_server);
        if (joined != SL_OK && joined != SL_AGAIN)
            return;
        uint8_t proof[SL_WELCOME_BYTES] = {0};
        mac_of(conn, conn->link->config.key, client_label, proof + SL_NONCE_BYTES);
        memcpy(proof + ID_AT, conn->id_client, SL_BESIDE_ID_BYTES);
        conn->state = SL_CONN_PROVED;
        sl_conn_control(conn, SL_WIRE_WELCOME, 0, proof);
    } else {
        sl_conn_fail(conn, SL_E_PROTOCOL, "WELCOME in the middle of a connection");
    }
}

void sl_conn_on_first_credit(struct sl_conn *conn)
{
    conn_open(conn, conn->link);
}
