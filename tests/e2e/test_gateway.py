"""The unmodified gateway `smg` from PyPI in front, and the `openai` client in front of that: chat and completions, streamed
and whole, several at once, and one that hangs up midway, after which every page is back."""
import concurrent.futures

import openai
import pytest
from conftest import wait_until
from gateway import Gateway


@pytest.fixture(scope="module")
def gateway(server, tmp_path_factory):
    it = Gateway(tmp_path_factory.mktemp("gateway"), [server.endpoint])
    yield it.client
    it.stop()


def idle(server):
    return all(server.metric(name) == 0 for name in ("sluice_requests_running", "sluice_kv_cache_usage_ratio",
                                                     "sluice_decode_kv_cache_usage_ratio"))


def test_completion(gateway):
    made = gateway.completions.create(model=gateway.model, prompt="It was the best of times, it was the", max_tokens=12,
                                      temperature=0)
    assert made.choices[0].text.startswith(" first time that the old man")
    assert made.choices[0].finish_reason == "length"
    assert made.usage.prompt_tokens == 10 and made.usage.completion_tokens == 12


def test_streamed_completion_is_the_same_text(gateway):
    ask = {"model": gateway.model, "prompt": "The old gentleman", "max_tokens": 120, "temperature": 0}
    whole = gateway.completions.create(**ask).choices[0].text
    pieces = [c.choices[0].text for c in gateway.completions.create(stream=True, **ask) if c.choices]
    assert len(pieces) > 1  # how many is the machine's business: what waits for a busy reader goes out together
    assert "".join(pieces) == whole


def test_chat_streamed_and_whole(gateway):
    ask = {"model": gateway.model, "messages": [{"role": "user", "content": "Tell me of the sea."}], "max_tokens": 16,
           "temperature": 0}
    whole = gateway.chat.completions.create(**ask)
    assert whole.usage.completion_tokens <= 16 and whole.choices[0].message.content
    streamed = "".join(c.choices[0].delta.content or "" for c in gateway.chat.completions.create(stream=True, **ask)
                       if c.choices)
    assert streamed == whole.choices[0].message.content


def test_a_seed_gives_the_same_text_among_others(gateway):
    def ask(seed):
        return gateway.completions.create(model=gateway.model, prompt="My dear sister,", max_tokens=16, temperature=0.9,
                                          seed=seed).choices[0].text
    alone = [ask(seed) for seed in range(4)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        together = list(pool.map(ask, [0, 1, 2, 3, 0, 1, 2, 3]))
    assert together == alone + alone
    assert len(set(alone)) > 1


def test_several_choices_are_those_of_the_seeds_that_follow(gateway):
    ask = {"model": gateway.model, "messages": [{"role": "user", "content": "Tell me of the sea."}], "max_tokens": 16,
           "temperature": 1.0}
    made = gateway.chat.completions.create(n=3, seed=70, **ask)
    alone = [gateway.chat.completions.create(seed=70 + i, **ask).choices[0].message.content for i in range(3)]
    assert [c.index for c in made.choices] == [0, 1, 2]
    # smg numbers them in the order in which they end; those of a stream have the index that they were given
    assert sorted(c.message.content for c in made.choices) == sorted(alone) and len(set(alone)) == 3
    parts = {0: "", 1: "", 2: ""}
    for chunk in gateway.chat.completions.create(n=3, seed=70, stream=True, **ask):
        for choice in chunk.choices:
            parts[choice.index] += choice.delta.content or ""
    assert list(parts.values()) == alone


def test_penalties_arrive(gateway):
    """(logit_bias does not: smg 1.13 drops it, tests/e2e/test_endpoint.py sends it itself.)"""
    ask = {"model": gateway.model, "messages": [{"role": "user", "content": "Tell me of the sea."}], "max_tokens": 40,
           "temperature": 0}
    def text(**more):
        return gateway.chat.completions.create(**ask, **more).choices[0].message.content
    plain = text()
    assert text(presence_penalty=1.5) != plain
    assert text(frequency_penalty=1.5) != plain
    assert text(extra_body={"repetition_penalty": 1.5}) != plain


def test_a_stop_string_ends_the_text(gateway):
    ask = {"model": gateway.model, "prompt": "It was the best of times, it was the", "max_tokens": 40, "temperature": 0}
    made = gateway.completions.create(stop=[" man"], **ask).choices[0]
    assert made.finish_reason == "stop"
    assert made.text == " first time that the old"


def test_hanging_up_midway_stops_the_work(gateway, server):
    before = server.metric("sluice_generation_tokens_total")
    stream = gateway.completions.create(model=gateway.model, prompt="Once more", max_tokens=8000, temperature=0,
                                        stream=True, extra_body={"ignore_eos": True})
    for n, _ in enumerate(stream):
        if n == 5:
            break
    stream.close()
    wait_until(lambda: idle(server), "the return of every page")
    made = server.metric("sluice_generation_tokens_total") - before
    assert made < 8000


def test_a_prompt_that_is_too_long_is_refused_and_others_go_on(gateway):
    with pytest.raises(openai.APIStatusError) as caught:
        gateway.completions.create(model=gateway.model, prompt="word " * 20000, max_tokens=4)
    assert 400 <= caught.value.status_code < 500, caught.value
    test_completion(gateway)


def test_prompts_go_where_their_beginning_was_computed(start_server, tmp_path):
    """The gateway follows what each of two pipelines has cached (SubscribeKvEvents)."""
    servers = [start_server(), start_server()]
    gateway = Gateway(tmp_path, [server.endpoint for server in servers], "--policy", "cache_aware")
    try:
        for kind in range(4):
            beginning = " ".join(f"word {kind} {i} goes" for i in range(60))
            for k in range(4):
                usage = gateway.client.completions.create(model=gateway.client.model, prompt=f"{beginning} {k}", max_tokens=2).usage
                cached = usage.prompt_tokens_details.cached_tokens
                assert cached == 0 if k == 0 else usage.prompt_tokens - 2 * 64 < cached < usage.prompt_tokens
        computed = sum(server.metric('sluice_prompt_tokens_total{source="computed"}') for server in servers)
        cached = sum(server.metric('sluice_prompt_tokens_total{source="cached"}') for server in servers)
        assert cached > 2 * computed
    finally:
        gateway.stop()
