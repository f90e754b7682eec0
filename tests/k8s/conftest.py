"""What the Kubernetes tests share. Those that run pods have `@pytest.mark.pods`: they need root, crun and iproute2, and are skipped,
aloud, without. The process then lives in network and mount namespaces of its own, which `ip`, clients and pods share.
Environment: SLUICE_BUILD (the build directory), SLUICE_SLOW_FACTOR, SLUICE_IMAGE_ROOT (a root made by mkroot.sh; without it one is
made)."""
import base64
import os
import pathlib
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.dirname(__file__))
sys.path.append(os.path.join(os.path.dirname(os.path.dirname(__file__)), "e2e"))
import debian  # noqa: E402: of the end-to-end tests
import kubelite  # noqa: E402
import pytest  # noqa: E402
from manifests import ROOT, render  # noqa: E402

BUILD = ROOT / os.environ.get("SLUICE_BUILD", "build")
SLUICE = BUILD / "sluice"


def why_no_pods():
    if os.geteuid() != 0:
        return "pods can't be run: only root makes namespaces"
    missing = [name for name in ("crun", "ip", "nft", "tc") if not shutil.which(name)]
    if missing:
        return f"pods can't be run: there is no {', '.join(missing)}; install crun, iproute2 and nftables"
    if subprocess.run(["unshare", "-m", "-n", "true"], capture_output=True).returncode != 0:
        return "pods can't be run: this machine allows no namespaces"
    return None


def pytest_configure(config):
    config.addinivalue_line("markers", "pods: runs pods on this machine")
    config.addinivalue_line("markers", "debian(package): needs files of it, which are brought while there is a network")
    config.addinivalue_line("markers", "slow: takes more than a few seconds; run by ./dev full")


def pytest_collection_modifyitems(config, items):
    for package in sorted({marker.args[0] for item in items for marker in item.iter_markers("debian")}):
        debian.why_not(package)  # whoever uses it says why
    chosen = [item for item in items if item.get_closest_marker("pods")]
    reason = why_no_pods() if chosen else None
    if reason:
        for item in chosen:
            item.add_marker(pytest.mark.skip(reason=reason))
    elif chosen:
        kubelite.isolate()  # before a library of a client has threads
        kubelite.say("kubelite: no API server, no admission, no scheduler, one node, one kernel; DNS is our own")


def sluice(*words, **more):
    return subprocess.run([str(SLUICE), *map(str, words)], capture_output=True, text=True, timeout=300, **more)


@pytest.fixture(scope="session")
def pack(tmp_path_factory):
    """The demo model's pack, as the claim sluice-models has it: pack/ in a directory that everybody may read."""
    folder = tmp_path_factory.mktemp("models")
    done = sluice("pack", ROOT / "demo", folder / "pack")
    assert done.returncode == 0, done.stderr
    subprocess.run(["chmod", "-R", "a+rX", str(folder)], check=True)
    return folder


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """The image of sluice as a directory, and smg: this machine's python3 with the packages of the tests' environment."""
    root = os.environ.get("SLUICE_IMAGE_ROOT")
    if not root:
        root = tmp_path_factory.mktemp("image") / "root"
        done = subprocess.run(["sh", str(ROOT / "deploy" / "image" / "mkroot.sh"), str(BUILD), str(root)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    packages = pathlib.Path(sys.executable).parent.parent / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    return {"localhost/sluice:latest": kubelite.Image(root, ["/usr/bin/sluice"], {"XDG_CACHE_HOME": "/var/cache"}),  # as the Dockerfile
            "localhost/smg:1.13.0": kubelite.Image("/", ["/usr/bin/python3", "-m", "smg.cli"], {"PYTHONPATH": "/opt/packages"},
                                                   {"/opt/packages": packages})}


def secret(name, namespace="sluice", **files):
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace},
            "data": {key: base64.b64encode(content).decode() for key, content in files.items()}}


def join_key():
    return secret("sluice-join", key=base64.b64encode(os.urandom(32)) + b"\n")


@pytest.fixture
def disk(tmp_path):
    """What local-nvme wants of a cluster: a checkpoint in the claim, and a folder of the node's that uid 65532 may write."""
    source, local = tmp_path / "claim", tmp_path / "nvme"
    for folder in (tmp_path, source, local):
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)
    shutil.copytree(ROOT / "demo", source / "model")
    os.chown(local, 65532, 65532)
    return {"claims": {"sluice-models": source}, "host_paths": {"/var/lib/sluice": local}}


def maker(folders, images, pack):
    """Yields start(overlay, documents of one's own ..., change=function of the rendered documents): a cluster, whole unless told not to
    wait for that. There is one at a time; it ends with the test, or with the module."""
    made = []

    def start(overlay, *more, change=None, wait=True, haste=5, **options):
        documents = render(overlay)
        if change:
            change(documents)
        options.setdefault("claims", {"sluice-models": pack})
        made.append(kubelite.Cluster(folders.mktemp("logs"), options.pop("images", images), haste=haste, **options))
        made[-1].apply([*documents, join_key(), *more])
        return made[-1].wait_whole() if wait else made[-1]
    yield start
    for cluster in made:
        cluster.stop()


@pytest.fixture(scope="module")
def make_cluster(tmp_path_factory, images, pack):
    yield from maker(tmp_path_factory, images, pack)


@pytest.fixture
def start_cluster(tmp_path_factory, images, pack):
    yield from maker(tmp_path_factory, images, pack)
