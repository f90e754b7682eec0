"""A Join stream that breaks: cut, stalled and then cut, half open, by a proxy that is restarted. The same process takes it up
again, nobody is lost, and requests go on with the same bits; whose stream stays broken for --lost-after is lost, by name."""
import signal

import grpc
import pytest
from conftest import Process, Server, free_port, wait_until
from relay import Relay
from test_members import Stranger, refused
from test_processes import Stream, generate

ROLES = ["stage 0", "stage 1", "decode"]


class Pipeline(Server):
    """A coordinator, stages and a decode worker as processes, each worker with a relay of its own before the coordinator. No
    relay is in the way of data."""

    def __init__(self, folder, model, lost_after, key=None, lost_after_of_workers=None, stages=2):
        ports = free_port(), free_port()
        self.endpoint, self.ops = (f"127.0.0.1:{port}" for port in ports)
        words = ["--join-key-file", key] if key else []
        Process.__init__(self, folder, "coordinator", "coordinator", model, "--stages", stages, "--listen", self.endpoint,
                         "--ops", self.ops, "--lost-after", lost_after, *words)
        self.relays, self.workers = {}, {}
        for role in [*(f"stage {k}" for k in range(stages)), "decode"]:
            self.relays[role] = Relay(self.endpoint)
            name = role.split()
            self.workers[role] = Process(folder, role.replace(" ", "-"), name[0], model,
                                         *(["--stage", name[1]] if len(name) > 1 else []), "--threads", 1, "--coordinator",
                                         self.relays[role].endpoint, "--lost-after", lost_after_of_workers or lost_after, *words)

    def rejoined(self, role):
        name = "decode 0" if role == "decode" else role  # the coordinator knows it by its place
        return self.log().count(f"{name} took up its Join stream again")

    def logs(self):
        return "\n".join([self.log(), *(worker.log() for worker in self.workers.values())])

    def end(self):
        """SIGTERM to the coordinator: everybody ends well."""
        self.signal(signal.SIGTERM)
        codes = {"coordinator": self.wait(), **{role: worker.wait() for role, worker in self.workers.items()}}
        assert set(codes.values()) == {0}, (codes, self.logs())

    def kill(self):
        for relay in self.relays.values():
            relay.close()
        for worker in self.workers.values():
            worker.kill()
        super().kill()


@pytest.fixture
def start_pipeline(tmp_path, pack):
    started = []

    def start(*args, **more):
        started.append(Pipeline(tmp_path, pack, *args, **more))
        return started[-1].wait_ready()
    yield start
    for pipeline in started:
        pipeline.kill()


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory, pack):
    it = Pipeline(tmp_path_factory.mktemp("rejoin"), pack, 60).wait_ready()
    yield it
    try:
        it.end()
    finally:
        it.kill()


def is_down(pipeline):
    return pipeline.get("/readyz")[0] == 503


def ready_again(pipeline):
    wait_until(lambda: pipeline.get("/readyz")[0] == 200, "readiness afterwards")


def cut(relay):
    relay.cut()


def stall_and_cut(relay):
    """The worker comes back to a relay that takes it and passes nothing on."""
    before = relay.n_taken
    relay.stall()
    relay.cut()
    wait_until(lambda: relay.n_taken > before, "another connection")
    relay.go_on()


def half_open_at_the_coordinator(relay):
    """The worker sees a reset, the coordinator sees nothing: the new stream takes the place of the one that is dead."""
    relay.held = getattr(relay, "held", []) + relay.cut(far=False)


def restart(relay):
    relay.down()
    relay.up()


FAULTS = [cut, stall_and_cut, half_open_at_the_coordinator, restart]
KINDS = {"idle": None, "prefill": {"n_ids": 3000, "max_tokens": 4}, "decode": {"n_ids": 20, "max_tokens": 1000}}


def check(pipeline, role, fault, kind):
    how, before, broken = KINDS[kind], pipeline.rejoined(role), pipeline.log().count(f"the Join stream of {role} broke")
    right = generate(pipeline.endpoint, **how) if how else None
    stream = Stream(pipeline.endpoint, **how) if how else None
    if kind == "decode":
        stream.wait_begun()
    fault(pipeline.relays[role])
    wait_until(lambda: pipeline.rejoined(role) > before, f"{role} to be back")
    if fault is half_open_at_the_coordinator:
        assert pipeline.log().count(f"the Join stream of {role} broke") == broken
    if stream:
        stream.end()
        assert stream.error is None and stream.ids == right, (stream.error, pipeline.logs())
    ready_again(pipeline)
    assert generate(pipeline.endpoint, max_tokens=8) == generate(pipeline.endpoint, max_tokens=8)
    assert all(worker.alive() for worker in pipeline.workers.values())


@pytest.mark.parametrize("role, fault, kind", [("stage 0", cut, "decode"), ("decode", restart, "decode"),
                                               ("stage 1", half_open_at_the_coordinator, "prefill")])
def test_a_broken_join_stream_is_taken_up_again(pipeline, role, fault, kind):
    check(pipeline, role, fault, kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("role", ROLES)
def test_whatever_happens_to_the_join_stream_of_any_role(pipeline, role, fault, kind):
    check(pipeline, role, fault, kind)


def test_while_a_stream_is_broken_nothing_is_begun(pipeline):
    """And nothing is lost: what is under way goes on as far as it has room, what was asked meanwhile is answered afterwards."""
    right = generate(pipeline.endpoint, max_tokens=200)
    running = Stream(pipeline.endpoint, max_tokens=200).wait_begun()
    relay = pipeline.relays["stage 1"]
    relay.down()
    try:
        wait_until(lambda: is_down(pipeline), "that it is not ready")
        assert pipeline.get("/livez")[0] == 200 and "silent" in pipeline.get("/readyz")[1]
        waiting = Stream(pipeline.endpoint, max_tokens=200)
        wait_until(lambda: pipeline.metric("sluice_requests_waiting") == 1, "the request in the queue")
        assert is_down(pipeline)
    finally:
        relay.up()
    assert running.end().ids == right and waiting.end().ids == right, (running.error, waiting.error)
    ready_again(pipeline)


def test_a_stranger_can_take_up_nobodys_stream(start_pipeline, pack, tmp_path):
    """He knows the key even, and what can be known of the place: not the bytes that the process drew."""
    key = tmp_path / "join.key"
    key.write_text("a secret of thirty-two characters")
    pipeline = start_pipeline(60, key=key)
    for text, says in ((key.read_text(), "there is one in this place already"), (None, "the join key differs")):
        for epoch in (0, 1):
            stranger = Stranger(pipeline.endpoint, text)
            stranger.hello()
            code, sentence = refused(stranger.join(stranger.node(pack, epoch=epoch)))
            assert (says if not text or not epoch else "does not know the pipeline") in sentence, (code, sentence)
    assert pipeline.get("/readyz")[0] == 200 and not pipeline.rejoined("stage 0")
    check(pipeline, "stage 0", cut, "idle")
    pipeline.end()


@pytest.mark.slow
def test_who_hears_no_beat_opens_another_stream(start_pipeline):
    """The coordinator sees a reset, the worker sees nothing: its stream stands, and nothing will ever come over it."""
    pipeline = start_pipeline(8)
    held = pipeline.relays["decode"].cut(near=False)
    wait_until(lambda: pipeline.rejoined("decode"), "the decode worker to be back")
    assert held and "no beat comes" in pipeline.workers["decode"].log()
    ready_again(pipeline)
    pipeline.end()


def test_a_stream_that_breaks_while_the_pipeline_forms_is_no_loss(pack, spawn):
    """Before the plan, by joining again; then, while weights load and links form, by taking up the stream."""
    endpoint, ops = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    relay = Relay(endpoint)
    coordinator = spawn("coordinator", "coordinator", pack, "--stages", 1, "--listen", endpoint, "--ops", ops)
    stage = spawn("stage", "stage", pack, "--threads", 1, "--coordinator", relay.endpoint)
    wait_until(lambda: "stage 0 joined" in coordinator.log(), "the stage to join")
    restart(relay)
    wait_until(lambda: coordinator.log().count("stage 0 joined") == 2, "the stage to join again")
    decode = spawn("decode", "decode", pack, "--threads", 1, "--coordinator", endpoint)
    wait_until(lambda: "all nodes are here" in coordinator.log(), "the plan")
    restart(relay)
    wait_until(lambda: "ready: 1 stages" in coordinator.log(), "readiness")
    coordinator.signal(signal.SIGTERM)
    assert [coordinator.wait(), stage.wait(), decode.wait()] == [0, 0, 0], coordinator.log() + stage.log()
    relay.close()


def test_a_worker_that_is_told_to_stop_while_its_stream_is_broken_leaves_well(start_pipeline):
    """Its word to the coordinator, and the coordinator's to it, are said again until they arrive."""
    pipeline = start_pipeline(60)
    stream = Stream(pipeline.endpoint, max_tokens=200).wait_begun()
    pipeline.relays["stage 0"].down()
    wait_until(lambda: is_down(pipeline), "that it is not ready")
    pipeline.workers["stage 0"].signal(signal.SIGTERM)
    wait_until(lambda: "draining" in pipeline.workers["stage 0"].log(), "the signal to be taken")
    pipeline.relays["stage 0"].up()
    assert stream.end().error is None and len(stream.ids) == 200, stream.error
    codes = [pipeline.wait(), *(worker.wait() for worker in pipeline.workers.values())]
    assert codes == [0, 0, 0, 0], pipeline.logs()


def test_nobody_is_told_to_stop_before_he_who_is_away_can_be_told(start_pipeline):
    """Else its neighbours would say goodbye, which is a loss to who knows of no stop."""
    pipeline = start_pipeline(60)
    pipeline.relays["decode"].down()
    wait_until(lambda: is_down(pipeline), "that it is not ready")
    pipeline.signal(signal.SIGTERM)
    wait_until(lambda: "are told to stop when the node whose Join stream broke is back" in pipeline.log(), "the drain's end")
    assert all(worker.alive() for worker in pipeline.workers.values())
    pipeline.relays["decode"].up()
    assert [pipeline.wait(), *(worker.wait() for worker in pipeline.workers.values())] == [0, 0, 0, 0], pipeline.logs()


@pytest.mark.parametrize("role", ["stage 1", pytest.param("stage 0", marks=pytest.mark.slow)])
def test_whose_port_refuses_is_lost_at_once(start_pipeline, role):
    """Nobody waits for an hour: a stream that broke and a data port without an owner are a process that has ended. Of three
    stages the second has no link with the coordinator, and neighbours that see its end, too."""
    pipeline = start_pipeline(3600, stages=3)
    stream = Stream(pipeline.endpoint, max_tokens=15000).wait_begun()
    pipeline.workers[role].signal(signal.SIGKILL)
    error = stream.end().error
    assert error and error.code() == grpc.StatusCode.UNAVAILABLE
    assert role in error.details() and "refuses connections, so its process has ended" in error.details()
    assert pipeline.wait() == 69
    for other in set(pipeline.workers) - {role}:
        assert pipeline.workers[other].wait() in (0, 69)  # told to stop, or it has seen for itself


@pytest.mark.slow
def test_a_coordinator_that_has_ended_is_not_waited_for(start_pipeline):
    pipeline = start_pipeline(3600)
    pipeline.signal(signal.SIGKILL)
    for role, worker in pipeline.workers.items():
        assert worker.wait() == 69, worker.log()


def test_a_coordinator_that_was_started_again_knows_nobody(start_pipeline, pack, spawn):
    """Who was part of another life of it ends at once, to be started again, too."""
    pipeline = start_pipeline(3600)
    for role in ROLES:
        pipeline.relays[role].target = ["127.0.0.1", str(free_port())]  # as if it were another by now
    spawn("other", "coordinator", pack, "--stages", 2, "--listen", f"127.0.0.1:{pipeline.relays['stage 0'].target[1]}", "--ops",
          f"127.0.0.1:{free_port()}")
    pipeline.relays["stage 0"].cut()
    assert pipeline.workers["stage 0"].wait() == 69
    assert "does not know the pipeline that the node is part of" in pipeline.workers["stage 0"].log()


@pytest.mark.slow
def test_a_decode_worker_whose_stream_stays_broken_is_lost_and_the_pipeline_waits_for_another(start_pipeline):
    pipeline = start_pipeline(4, lost_after_of_workers=60)
    stream = Stream(pipeline.endpoint, max_tokens=15000).wait_begun()
    pipeline.relays["decode"].down()
    error = stream.end().error
    assert error and error.code() == grpc.StatusCode.UNAVAILABLE and "none came in its place" in error.details()
    assert "decode 0 is gone: its Join stream broke, and it did not take it up again within 4 s" in pipeline.log()
    worker = pipeline.workers.pop("decode")
    assert worker.wait() == 69, worker.log()  # it is told over its link
    assert pipeline.get("/readyz") == (503, "no decode worker is here; start one with sluice decode\n")
    pipeline.end()


@pytest.mark.slow
@pytest.mark.parametrize("role", ["stage 0", "stage 1"])
def test_whose_stream_stays_broken_is_lost_by_name(start_pipeline, role):
    pipeline = start_pipeline(8, lost_after_of_workers=60)
    stream = Stream(pipeline.endpoint, max_tokens=15000).wait_begun()
    pipeline.relays[role].down()
    error = stream.end().error
    assert error and error.code() == grpc.StatusCode.UNAVAILABLE
    says = f"{role} is gone: its Join stream broke, and it did not take it up again within 8 s"
    assert says in error.details() and pipeline.wait() == 69 and says in pipeline.log()
    for worker in pipeline.workers.values():
        assert worker.wait() in (0, 69)


@pytest.mark.slow
def test_a_worker_that_finds_no_coordinator_gives_up(start_pipeline):
    pipeline = start_pipeline(60, lost_after_of_workers=8)
    pipeline.relays["stage 1"].down()
    assert pipeline.workers["stage 1"].wait() == 69
    assert "could not be taken up again within 8 s" in pipeline.workers["stage 1"].log()
    assert pipeline.wait() == 69
