"""The volume that the pack lies on: without it, half copied, of another version, of one node only, wrong in a byte, not to be written,
or filled while pods start. Each is one sentence and a code, nobody serves from it, and once it is healed all is served by itself."""
import json
import os
import shutil

import pytest
from conftest import sluice
from load import Stream
from manifests import ROOT, named, templates

pytestmark = [pytest.mark.pods, pytest.mark.slow]


def one_group(documents):
    named(documents, "LeaderWorkerSet", "sluice")["spec"]["replicas"] = 1


def volume(folder):
    """Directories that everybody may enter."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    return folder


def said(cluster, code, sentence):
    """The end of a container that says so; all that ended so far did with a sentence."""
    def end():
        return next((e for e in list(cluster.ends) if e[2] == code and sentence in e[3]), None)
    return cluster.wait(end, f"{code}: {sentence}, among {cluster.ends[:6]}")


def is_served(cluster):
    cluster.wait_whole()
    stream = Stream(f"{cluster.pod('sluice-0').ip}:50051", n_ids=300).end()
    assert stream.error is None and len(stream.ids) == 24, stream.error


def torn(name, size=None):
    """A file of which so many bytes are there; none: it is not."""
    def damage(pack):
        if size is None:
            (pack / name).unlink()
        else:
            os.truncate(pack / name, size)
    return damage


def other_byte(pack):
    with open(pack / "layer-0001.safetensors", "r+b") as file:
        file.seek(50000)
        byte = file.read(1)[0]
        file.seek(50000)
        file.write(bytes([byte ^ 1]))


def newer(pack):
    text = (pack / "pack.json").read_text()
    version = json.loads(text)["format_version"]
    assert f'"format_version": {version}' in text
    (pack / "pack.json").write_text(text.replace(f'"format_version": {version}', f'"format_version": {version + 1}'))


def unpacked(pack):
    """A checkpoint, which a pod whose root is read-only has no place to pack in."""
    shutil.rmtree(pack)
    shutil.copytree(ROOT / "demo", pack)


@pytest.mark.parametrize("damage, code, sentence", [
    (shutil.rmtree, 65, "cannot open /models/pack: No such file or directory; give a pack or a checkpoint directory"),
    (torn("layer-0001.safetensors", 300000), 65, "/models/pack: layer-0001.safetensors has 300000 bytes, pack.json says"),
    (torn("layer-0002.safetensors"), 65, "/models/pack: layer-0002.safetensors is missing"),
    (torn("pack.json", 1000), 65, "/models/pack: pack.json: not valid JSON at byte 1000"),
    (torn("pack.json"), 65, "/models/pack has files of a pack and no pack.json, which is written last; copy it again, whole"),
    (newer, 65, "/models/pack: pack.json: format_version is 3, and this sluice reads 1 to 2; use a newer one, or pack the checkpoint again"),
    (unpacked, 74, "cannot write into the cache directory /var/cache/sluice: Read-only file system; pack /models/pack before"),
    (other_byte, 65, "layer-0001.safetensors has other bytes than when it was packed"),
], ids=["missing", "torn file", "file missing", "torn pack.json", "no pack.json", "newer", "not packed", "other byte"])
def test_a_pack_that_is_none_is_said_and_served_once_it_is_one(start_cluster, pack, tmp_path, damage, code, sentence):
    claim = volume(tmp_path / "claim")
    volume(tmp_path)
    shutil.copytree(pack / "pack", claim / "pack")
    damage(claim / "pack")
    cluster = start_cluster("base", change=one_group, wait=False, claims={"sluice-models": claim}, haste=20)
    said(cluster, code, sentence)
    assert not any(pod.ready for pod in list(cluster.pods))
    if damage is shutil.rmtree:
        shutil.copytree(pack / "pack", claim / "pack")
    for path in (pack / "pack").iterdir():  # as rsync does: beside it, then renamed
        shutil.copy(path, claim / "new")
        os.rename(claim / "new", claim / "pack" / path.name)
    is_served(cluster)


def test_a_node_with_another_pack_is_told_so(start_cluster, pack, tmp_path):
    """A claim of its own that was filled on another day."""
    other = volume(tmp_path / "other")
    volume(tmp_path)
    done = sluice("pack", ROOT / "demo", other / "pack", "--experts", "i4")
    assert done.returncode == 0, done.stderr

    def change(documents):
        one_group(documents)
        worker = dict(templates(named(documents, "LeaderWorkerSet", "sluice")))["workerTemplate"]
        next(v for v in worker["spec"]["volumes"] if v["name"] == "models")["persistentVolumeClaim"]["claimName"] = "other"
    cluster = start_cluster("base", change=change, wait=False, claims={"sluice-models": pack, "other": other}, haste=20)
    said(cluster, 78, "the model differs: the coordinator serves the pack")
    shutil.rmtree(other / "pack")
    shutil.copytree(pack / "pack", other / "pack")
    is_served(cluster)


# ---- local-nvme: filled by an init container ----

@pytest.fixture
def disks(tmp_path):
    """(the claim, without anything; the node's disk, which uid 65532 may write)"""
    volume(tmp_path)
    source, local = volume(tmp_path / "claim"), volume(tmp_path / "nvme")
    os.chown(local, 65532, 65532)
    return source, local


def start(start_cluster, source, local):
    return start_cluster("local-nvme", change=one_group, wait=False, claims={"sluice-models": source},
                         host_paths={"/var/lib/sluice": local}, haste=20)


def test_a_checkpoint_that_arrives_while_pods_start_is_waited_for(start_cluster, disks):
    """Over a slow network: nothing, some files, a half of the weights, all of them. What is there half is never packed."""
    source, local = disks
    model, cluster = source / "model", start(start_cluster, source, local)
    said(cluster, 65, "can't read /source/model: No such file or directory")
    volume(model)
    shutil.copy(ROOT / "demo" / "config.json", model)
    said(cluster, 65, "/source/model holds neither model.safetensors nor model.safetensors.index.json")
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(ROOT / "demo" / name, model)
    weights = (ROOT / "demo" / "model.safetensors").read_bytes()
    with open(model / "model.safetensors", "wb") as file:
        file.write(weights[:len(weights) // 2])
        file.flush()
        said(cluster, 65, "the file is truncated, fetch it again")
        assert not (local / "pack").exists() and not any(pod.running for pod in list(cluster.pods))
        file.write(weights[len(weights) // 2:])
    is_served(cluster)
    assert sum("is packed in /models/pack" in path.read_text() for path in cluster.logs.glob("*.pack.log")) == 1


def test_a_disk_that_may_not_be_written_is_said_and_filled_when_it_may(start_cluster, disks):
    source, local = disks
    shutil.copytree(ROOT / "demo", source / "model")
    os.chown(local, 0, 0)
    cluster = start(start_cluster, source, local)
    _, container, _, sentence = said(cluster, 74, "Permission denied")
    assert container == "pack" and "can't create /models/pack.tmp-" in sentence
    assert not any(pod.running for pod in list(cluster.pods))
    os.chown(local, 65532, 65532)
    is_served(cluster)
