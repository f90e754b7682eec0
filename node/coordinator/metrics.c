/* What the coordinator counts, and how it is told: GetLoads and /metrics read what the thread has published last. */
#include "base/clock.h"
#include "base/metric.h"
#include "base/text.h"
#include "node/coordinator/coordinator_impl.h"
#include "pipeline/decide/admit.h"
#include <math.h>
#include <stdio.h>

/* ---- counted on the coordinator's thread ---- */

static const double ratio_bounds[SL_RATIO_BUCKETS] = {.01, .02, .04, .06, .1, .15, .2, .3, .5, 1, 2, 5};

static void add_ratio(struct sl_ratios *ratios, double value)
{
    ratios->count++;
    ratios->sum += value;
    for (uint32_t i = 0; i < SL_RATIO_BUCKETS; i++)
        ratios->buckets[i] += value <= ratio_bounds[i];
}

static enum sl_refused refused_of(const struct sl_action *end)
{
    switch (end->end.refusal) {
    case SL_REFUSAL_TIME:
        return SL_REFUSED_TIME;
    case SL_REFUSAL_PROMISE:
        return SL_REFUSED_PROMISE;
    case SL_REFUSAL_SHARE:
        return SL_REFUSED_SHARE;
    default:
        return end->end.status == SL_E_EXHAUSTED     ? SL_REFUSED_QUEUE
               : end->end.status == SL_E_DEADLINE    ? SL_REFUSED_DEADLINE
               : end->end.status == SL_E_UNAVAILABLE ? SL_REFUSED_NOT_READY
                                                     : SL_REFUSED_REQUEST;
    }
}

void sl_meter_admitted(struct sl_coordinator *c, struct sl_call *call, uint64_t now_us)
{
    call->admit_us = now_us;
    sl_hist_add(&c->now.meter.queue, now_us - call->submit_us);
}

void sl_meter_token(struct sl_coordinator *c, struct sl_call *call, struct sl_call_text *text,
                    uint64_t now_us)
{
    struct sl_coordinator_meter *m = &c->now.meter;
    uint64_t second = now_us / 1000000u;
    if (call->first_us == 0) {
        call->first_us = now_us;
        sl_hist_add(&m->prefill, now_us - call->admit_us);
        double real = (double)(now_us - call->submit_us), predicted = (double)call->predicted_us;
        if (call->ask.target_us > 0)
            m->targets[now_us <= call->ask.target_us]++;
        if (call->predicted_us > 0 && real > 0)
            add_ratio(&m->ttft_error[call->ask.n_ids > SL_SHORT_TOKENS], fabs(predicted - real) / real);
    }
    if (text->n_out == 0)
        return; /* the prompt alone was asked for */
    m->output_tokens++;
    if (m->second[second % 10] != second) {
        m->second[second % 10] = second;
        m->second_tokens[second % 10] = 0;
    }
    m->second_tokens[second % 10]++;
    if (text->n_out > 1)
        sl_hist_add(&m->inter_token, now_us - text->last_us);
    else if (text == call->texts) /* the others' first tokens come with it */
        sl_hist_add(&m->ttft, now_us - call->submit_us);
    text->last_us = now_us;
}

/* A request is counted once, with its last answer. */
void sl_meter_ended(struct sl_coordinator *c, const struct sl_call *call, const struct sl_action *a,
                    uint64_t now_us)
{
    struct sl_coordinator_meter *m = &c->now.meter;
    if (call->seq == 0) { /* it was never taken */
        m->refused[refused_of(a)]++;
        return;
    }
    if (call->ask.target_us > 0 && call->first_us == 0 && a->end.finish != SL_FINISH_ABORT)
        m->targets[false]++;
    if (call->failed)
        m->failed++;
    else
        m->ok[a->end.finish]++;
    if (!call->failed && a->end.finish != SL_FINISH_ABORT)
        sl_hist_add(&m->e2e, now_us - call->submit_us);
}

/* ---- told on any thread ---- */

static void fill_load(const struct sl_coordinator *c, const struct sl_published *p, struct sl_load *load)
{
    uint64_t now_second = sl_coordinator_now_us() / 1000000u, tokens = 0;
    uint32_t n_here = 0;
    for (int i = 0; i < 10; i++)
        if (p->meter.second[i] + 10 > now_second)
            tokens += p->meter.second_tokens[i];
    for (uint32_t d = 0; d < c->plan.max_decoders; d++)
        n_here += p->core.decoders[d].state != SL_DECODER_NONE;
    *load = (struct sl_load){
        .running = p->core.running,
        .waiting = p->core.waiting,
        .waiting_tokens = p->core.waiting_tokens,
        .waiting_bytes = p->core.waiting_bytes,
        .kv_pages_used = p->core.pages_used,
        .kv_pages_total = c->plan.n_pages,
        .decode_pages_used = p->core.decode_pages_used,
        .decode_pages_total = c->plan.n_pages * (n_here ? n_here : 1),
        .max_running = c->plan.max_running * (n_here ? n_here : 1),
        .decoding = p->core.decoding,
        .sitting_out = p->core.sitting_out,
        .set_back = p->core.set_back,
        .moved = p->core.moved,
        .kv_pages_cached = p->core.pages_cached,
        .pages_evicted = p->core.pages_evicted,
        .prompt_tokens_computed = p->core.prompt_tokens_computed,
        .prompt_tokens_cached = p->core.prompt_tokens_cached,
        .handoff_tokens_pushed = p->core.handoff_tokens_pushed,
        .handoff_tokens_kept = p->core.handoff_tokens_kept,
        .output_tokens = p->meter.output_tokens,
        .requests_ok = p->meter.ok[SL_FINISH_STOP] + p->meter.ok[SL_FINISH_LENGTH],
        .requests_failed = p->meter.failed,
        .requests_aborted = p->meter.ok[SL_FINISH_ABORT],
        .output_tokens_per_s = (double)tokens / 10.0,
        .life = p->core.life,
        .silent = p->core.silent,
        .alone = p->core.alone,
        .n_decoders = p->core.n_decoders,
        .max_decoders = c->plan.max_decoders,
        .n_stages = c->plan.n_stages,
        .uptime_us = sl_coordinator_now_us() - c->started_us,
        .last_receive_wall_us = p->last_receive_wall_us,
    };
    memcpy(load->decoders, p->core.decoders, sizeof load->decoders);
}

void sl_coordinator_load(struct sl_coordinator *c, struct sl_load *load)
{
    struct sl_published p;
    sl_latest_read(&c->published, &p);
    fill_load(c, &p, load);
}

static void add_hist_head(struct sl_text *t, const char *name, const char *help)
{
    sl_metric_head(t, "histogram", name, help);
}

/* label: of its series, as `from="queued"`; empty: none. */
static void add_hist_series(struct sl_text *t, const char *name, const char *label, const struct sl_hist *h)
{
    static const double bounds[] = {.001, .005, .01, .02, .04, .06, .08, .1, .25, .5,  .75,
                                    1,    2.5,  5,   7.5, 10,  20,  40,  80, 160, 640, 2560};
    const char *comma = *label ? "," : "", *open = *label ? "{" : "", *close = *label ? "}" : "";
    for (size_t i = 0; i < sizeof bounds / sizeof *bounds; i++)
        sl_text_add(t, "%s_bucket{%s%sle=\"%g\"} %llu\n", name, label, comma, bounds[i],
                    (unsigned long long)sl_hist_count_le(h, (uint64_t)(bounds[i] * 1e6)));
    sl_text_add(t, "%s_bucket{%s%sle=\"+Inf\"} %llu\n%s_sum%s%s%s %.6f\n%s_count%s%s%s %llu\n", name, label,
                comma, (unsigned long long)h->count, name, open, label, close, (double)h->sum_us / 1e6, name,
                open, label, close, (unsigned long long)h->count);
}

static void add_hist(struct sl_text *t, const char *name, const char *help, const struct sl_hist *h)
{
    add_hist_head(t, name, help);
    add_hist_series(t, name, "", h);
}

static void add_cancels(struct sl_text *t, const struct sl_hist cancel[SL_WHERES])
{
    static const char name[] = "sluice_cancel_seconds";
    static const char *const labels[SL_WHERES] = {[SL_WHERE_QUEUED] = "from=\"queued\"",
                                                  [SL_WHERE_PREFILL] = "from=\"prefill\"",
                                                  [SL_WHERE_HANDOFF] = "from=\"handoff\"",
                                                  [SL_WHERE_DECODE] = "from=\"decode\""};
    add_hist_head(t, name,
                  "From a cancel until nothing is left of the request on any node, by how far it had "
                  "come.");
    for (int i = SL_WHERE_QUEUED; i < SL_WHERES; i++)
        add_hist_series(t, name, labels[i], &cancel[i]);
}

static void add_gauge(struct sl_text *t, const char *name, const char *help, double value)
{
    sl_metric_head(t, "gauge", name, help);
    sl_text_add(t, "%s %.9g\n", name, value);
}

static void add_counter(struct sl_text *t, const char *name, const char *help, uint64_t value)
{
    sl_metric_head(t, "counter", name, help);
    sl_text_add(t, "%s_total %llu\n", name, (unsigned long long)value);
}

static void add_peer_bytes(struct sl_coordinator *c, struct sl_text *t, uint64_t checksum_failures)
{
    struct sl_io_stats io;
    sl_io_stats(c->io, &io);
    sl_metric_head(t, "counter", "sluice_peer_bytes", "Payload bytes moved over data links.");
    sl_text_add(t,
                "sluice_peer_bytes_total{dir=\"sent\"} %llu\n"
                "sluice_peer_bytes_total{dir=\"received\"} %llu\n",
                (unsigned long long)io.bytes_sent, (unsigned long long)io.bytes_received);
    add_counter(t, "sluice_checksum_failures", "Frames whose payload checksum did not match.",
                checksum_failures);
    add_gauge(t, "sluice_links_up", "Data links of this node that are up.", (double)io.links_up);
}

static void add_refused(struct sl_text *t, const uint64_t refused[SL_REFUSED_KINDS])
{
    static const char *const reasons[SL_REFUSED_KINDS] = {"queue",    "time",      "promise", "share",
                                                          "deadline", "not_ready", "request"};
    sl_metric_head(t, "counter", "sluice_requests_refused", "Requests that were not queued, by reason.");
    for (int k = 0; k < SL_REFUSED_KINDS; k++)
        sl_text_add(t, "sluice_requests_refused_total{reason=\"%s\"} %llu\n", reasons[k],
                    (unsigned long long)refused[k]);
}

static void add_ttft_error(struct sl_text *t, const struct sl_ratios ratios[2])
{
    static const char name[] = "sluice_request_ttft_error_ratio";
    char help[160];
    snprintf(help, sizeof help,
             "Distance of the predicted time to the first token from the real one, of the real one; "
             "short: prompts of at most %d tokens.",
             SL_SHORT_TOKENS);
    sl_metric_head(t, "histogram", name, help);
    for (int k = 0; k < 2; k++) {
        const char *class = k == 0 ? "short" : "long";
        for (uint32_t i = 0; i < SL_RATIO_BUCKETS; i++)
            sl_text_add(t, "%s_bucket{class=\"%s\",le=\"%g\"} %llu\n", name, class, ratio_bounds[i],
                        (unsigned long long)ratios[k].buckets[i]);
        sl_text_add(t,
                    "%s_bucket{class=\"%s\",le=\"+Inf\"} %llu\n%s_sum{class=\"%s\"} %.6f\n"
                    "%s_count{class=\"%s\"} %llu\n",
                    name, class, (unsigned long long)ratios[k].count, name, class, ratios[k].sum, name, class,
                    (unsigned long long)ratios[k].count);
    }
}

/* What the chunks of each stage should have taken, took, and are thought to cost now. */
static void add_costs(struct sl_coordinator *c, struct sl_text *t)
{
    char help[80];
    static const char *const names[SL_COST_TERMS] = {"chunk", "position", "row", "pair", "experts", "end"};
    struct sl_cost_fit *fits = calloc(c->plan.n_stages, sizeof *fits);
    if (!fits)
        return;
    sl_latest_read(&c->published_fits, fits);
    sl_metric_head(t, "counter", "sluice_stage_chunk_predicted_seconds",
                   "What chunks should have taken, as predicted before.");
    for (uint32_t k = 0; k < c->plan.n_stages; k++)
        sl_text_add(t, "sluice_stage_chunk_predicted_seconds_total{role=\"stage %u\"} %.9g\n", k,
                    fits[k].predicted_us / 1e6);
    sl_metric_head(t, "counter", "sluice_stage_chunk_measured_seconds", "What chunks took.");
    for (uint32_t k = 0; k < c->plan.n_stages; k++)
        sl_text_add(t, "sluice_stage_chunk_measured_seconds_total{role=\"stage %u\"} %.9g\n", k,
                    fits[k].measured_us / 1e6);
    snprintf(help, sizeof help, "Relative error of the last %d predictions, by percentile.", SL_COST_ERRORS);
    sl_metric_head(t, "gauge", "sluice_stage_chunk_error_ratio", help);
    for (uint32_t k = 0; k < c->plan.n_stages; k++)
        sl_text_add(t,
                    "sluice_stage_chunk_error_ratio{role=\"stage %u\",percentile=\"50\"} %.4g\n"
                    "sluice_stage_chunk_error_ratio{role=\"stage %u\",percentile=\"90\"} %.4g\n",
                    k, sl_cost_fit_error(&fits[k], 0.5), k, sl_cost_fit_error(&fits[k], 0.9));
    sl_metric_head(t, "gauge", "sluice_stage_cost_seconds",
                   "What chunks cost now: a chunk at all, a position before a slice, a row, a pair of "
                   "positions, all experts, a prompt's end.");
    for (uint32_t k = 0; k < c->plan.n_stages; k++)
        for (int i = 0; i < SL_COST_TERMS; i++)
            sl_text_add(t, "sluice_stage_cost_seconds{role=\"stage %u\",of=\"%s\"} %.6g\n", k, names[i],
                        fits[k].now.us[i] / 1e6);
    sl_metric_head(t, "gauge", "sluice_stage_expert_hit_ratio",
                   "Share of a layer's experts that one row hits, as the cost of chunks has it.");
    for (uint32_t k = 0; k < c->plan.n_stages; k++)
        sl_text_add(t, "sluice_stage_expert_hit_ratio{role=\"stage %u\"} %.6g\n", k, fits[k].now.hit);
    sl_metric_head(t, "gauge", "sluice_stage_layers", "Layers of the model that a stage has.");
    for (uint32_t k = 0; k < c->plan.n_stages; k++)
        sl_text_add(t, "sluice_stage_layers{role=\"stage %u\"} %u\n", k,
                    c->plan.begin[k + 1] - c->plan.begin[k]);
    free(fits);
}

static void add_hops(struct sl_text *t, const struct sl_hops *hops, uint32_t n_stages)
{
    char to[SL_MAX_STAGES + 1][24];
    for (uint32_t k = 1; k <= n_stages; k++)
        k < n_stages ? snprintf(to[k], sizeof to[k], "stage %u", k)
                     : snprintf(to[k], sizeof to[k], "coordinator");
    sl_metric_head(t, "counter", "sluice_hop_seconds",
                   "How long chunks were under way, from when a stage had run them until they were at the "
                   "next, or the result was here; a wait for a free slot there is in it.");
    for (uint32_t k = 1; k <= n_stages; k++)
        sl_text_add(t, "sluice_hop_seconds_total{to=\"%s\"} %.6f\n", to[k], (double)hops->to[k].us / 1e6);
    sl_metric_head(t, "counter", "sluice_hops", "Chunks of which that is the time.");
    for (uint32_t k = 1; k <= n_stages; k++)
        sl_text_add(t, "sluice_hops_total{to=\"%s\"} %llu\n", to[k], (unsigned long long)hops->to[k].n);
}

static void add_chunks(struct sl_coordinator *c, struct sl_text *t, const struct sl_hops *hops)
{
    add_costs(c, t);
    add_hops(t, hops, c->plan.n_stages);
}

/* One series a place, whoever has it. */
static void add_decoders(struct sl_text *t, const struct sl_load *load, const uint64_t lost[2])
{
    sl_metric_head(t, "counter", "sluice_decoders_lost",
                   "Decode workers that went without being told to, by reason; spoiled: their weights "
                   "were not what they had loaded.");
    sl_text_add(t,
                "sluice_decoders_lost_total{reason=\"gone\"} %llu\n"
                "sluice_decoders_lost_total{reason=\"spoiled\"} %llu\n",
                (unsigned long long)lost[false], (unsigned long long)lost[true]);
    add_gauge(t, "sluice_decoders", "Decode workers on which an answer could begin.", load->n_decoders);
    sl_metric_head(t, "gauge", "sluice_decoder_answers", "Answers in the batch of a decode worker.");
    for (uint32_t d = 0; d < load->max_decoders; d++)
        if (load->decoders[d].state != SL_DECODER_NONE)
            sl_text_add(t, "sluice_decoder_answers{decoder=\"%u\"} %u\n", d, load->decoders[d].decoding);
    sl_metric_head(t, "gauge", "sluice_decoder_kept_pages",
                   "KV pages of a decode worker that hold a prefix by name, in use or free on demand.");
    for (uint32_t d = 0; d < load->max_decoders; d++)
        if (load->decoders[d].state != SL_DECODER_NONE)
            sl_text_add(t, "sluice_decoder_kept_pages{decoder=\"%u\"} %u\n", d, load->decoders[d].pages_kept);
    sl_metric_head(t, "gauge", "sluice_decoder_step_seconds",
                   "What a token step with one more answer is thought to take.");
    for (uint32_t d = 0; d < load->max_decoders; d++)
        if (load->decoders[d].state != SL_DECODER_NONE)
            sl_text_add(t, "sluice_decoder_step_seconds{decoder=\"%u\"} %.6f\n", d,
                        load->decoders[d].step_us * 1e-6);
}

void sl_coordinator_metrics(struct sl_coordinator *c, struct sl_text *t)
{
    struct sl_published p;
    struct sl_load load;
    sl_latest_read(&c->published, &p);
    fill_load(c, &p, &load);
    add_gauge(t, "sluice_ready", "1 when every stage is here and heard, and the node takes requests.",
              load.life == SL_LIFE_READY && !load.silent && !load.alone);
    add_gauge(t, "sluice_requests_running",
              "Answers that have begun, prompts without an answer included; a request has as many "
              "as it asked for.",
              load.running);
    add_gauge(t, "sluice_requests_waiting", "Requests in the queue, and answers that were set back.",
              load.waiting);
    add_gauge(t, "sluice_answers_sitting_out", "Answers that make no token for want of a KV page.",
              load.sitting_out);
    add_counter(t, "sluice_answers_set_back",
                "Answers that gave their KV pages to older ones and were queued to be prefilled again.",
                load.set_back);
    add_counter(t, "sluice_answers_moved",
                "Answers that were queued to be prefilled again because their decode worker was "
                "lost, or left.",
                load.moved);
    add_gauge(t, "sluice_requests_waiting_bytes", "Bytes that requests in the queue hold.",
              (double)load.waiting_bytes);
    add_gauge(t, "sluice_prefill_tokens_waiting_uncached",
              "Prompt tokens admitted or queued and not yet in the order log.", load.waiting_tokens);
    add_gauge(t, "sluice_kv_cache_usage_ratio",
              "Share of each stage's KV pages that is promised to requests or in use as a prefix.",
              (double)load.kv_pages_used / (double)load.kv_pages_total);
    add_gauge(t, "sluice_decode_kv_cache_usage_ratio",
              "Share of the decode workers' KV pages that is promised to requests.",
              (double)load.decode_pages_used / (double)load.decode_pages_total);
    add_decoders(t, &load, p.meter.decoders_lost);
    sl_metric_head(t, "info", "sluice_cache_config", "The KV pools.");
    sl_text_add(t, "sluice_cache_config_info{block_size=\"%d\",num_blocks=\"%u\",dtype=\"%s\"} 1\n", SL_PAGE,
                load.kv_pages_total, sl_coordinator_kv_dtype(c));
    add_counter(t, "sluice_generation_tokens", "Output tokens.", load.output_tokens);
    add_peer_bytes(c, t, p.meter.checksum_failures);
    const struct sl_coordinator_meter *m = &p.meter;
    sl_metric_head(t, "counter", "sluice_prompt_tokens",
                   "Prompt tokens by where their KV came from, those of answers that were set back and "
                   "came again included.");
    sl_text_add(t,
                "sluice_prompt_tokens_total{source=\"computed\"} %llu\n"
                "sluice_prompt_tokens_total{source=\"cached\"} %llu\n",
                (unsigned long long)load.prompt_tokens_computed,
                (unsigned long long)load.prompt_tokens_cached);
    sl_metric_head(
        t, "counter", "sluice_handoff_tokens",
        "Tokens of prompts that decode workers took, by how their KV came there: pushed by the stages, or kept "
        "since an earlier one.");
    sl_text_add(t,
                "sluice_handoff_tokens_total{source=\"pushed\"} %llu\n"
                "sluice_handoff_tokens_total{source=\"kept\"} %llu\n",
                (unsigned long long)load.handoff_tokens_pushed, (unsigned long long)load.handoff_tokens_kept);
    add_gauge(t, "sluice_prefix_cache_usage_ratio",
              "Share of each stage's KV pages that hold a prefix by name, in use or free on demand.",
              (double)load.kv_pages_cached / (double)load.kv_pages_total);
    add_counter(t, "sluice_prefix_cache_evictions", "Cached KV pages that were given to others.",
                load.pages_evicted);
    sl_metric_head(t, "counter", "sluice_requests", "Requests that have ended.");
    sl_text_add(t,
                "sluice_requests_total{code=\"OK\",finish_reason=\"stop\"} %llu\n"
                "sluice_requests_total{code=\"OK\",finish_reason=\"length\"} %llu\n"
                "sluice_requests_total{code=\"OK\",finish_reason=\"abort\"} %llu\n"
                "sluice_requests_total{code=\"error\",finish_reason=\"none\"} %llu\n",
                (unsigned long long)m->ok[SL_FINISH_STOP], (unsigned long long)m->ok[SL_FINISH_LENGTH],
                (unsigned long long)m->ok[SL_FINISH_ABORT], (unsigned long long)m->failed);
    add_chunks(c, t, &m->hops);
    add_counter(t, "sluice_requests_rejected", "Requests refused at submission.", m->rejected);
    p.meter.refused[SL_REFUSED_DEADLINE] += atomic_load(&c->n_past);
    add_refused(t, m->refused);
    sl_metric_head(t, "counter", "sluice_request_targets",
                   "Requests that were queued and named a time for their first token, by whether it "
                   "came in time.");
    sl_text_add(t,
                "sluice_request_targets_total{met=\"yes\"} %llu\n"
                "sluice_request_targets_total{met=\"no\"} %llu\n",
                (unsigned long long)m->targets[true], (unsigned long long)m->targets[false]);
    add_ttft_error(t, m->ttft_error);
    add_hist(t, "sluice_time_to_first_token_seconds", "From submission to the first output token.", &m->ttft);
    add_hist(t, "sluice_request_queue_seconds", "From submission to admission.", &m->queue);
    add_hist(t, "sluice_request_prefill_seconds", "From admission to the first output token.", &m->prefill);
    add_hist(t, "sluice_inter_token_latency_seconds", "Between output tokens of a request.", &m->inter_token);
    add_hist(t, "sluice_request_seconds", "From submission to the end.", &m->e2e);
    add_cancels(t, m->cancel);
    add_hist(t, "sluice_cancel_in_vain_seconds",
             "From a cancel of what was being prefilled until no stage computed for it alone any more.",
             &m->cancel_in_vain);
}
