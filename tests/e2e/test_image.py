"""The image: what deploy/image/mkroot.sh makes is small, holds nothing whose origin is not known, and runs the program as a
nobody who can write nothing. No registry and no container engine is needed: the root is a directory, entered by chroot."""
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess

import pytest

from conftest import PATIENCE, ROOT, SLUICE, free_port, get, run, wait_until

IMAGE = ROOT / "deploy" / "image"
SBOM = "usr/share/doc/sluice/sbom.spdx.json"
OURS = {"etc/group", "etc/nsswitch.conf", "etc/passwd", "usr/bin/sluice", "usr/share/doc/sluice/copyright"}
MEGABYTE = 1000 * 1000

pytestmark = pytest.mark.skipif(not shutil.which("dpkg-query"), reason="no Debian: an image is made of its packages")


def mkroot(*args):
    return subprocess.run([IMAGE / "mkroot.sh", *args], capture_output=True, text=True, timeout=PATIENCE)


def sbom(root):
    return subprocess.run([IMAGE / "sbom.sh", root], capture_output=True, text=True, timeout=PATIENCE)


def files_of(root):
    """Paths of its files, links not followed."""
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and not path.is_symlink()}


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """The root of the image, made of what this machine has installed. Whoever changes it does that to a copy."""
    root = tmp_path_factory.mktemp("image") / "root"
    done = mkroot(SLUICE.parent, root)
    assert done.returncode == 0, done.stderr
    return root


@pytest.fixture
def copy(image, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(image, root, symlinks=True)
    return root


def size_of(root):
    return sum((root / name).stat().st_size for name in files_of(root))


def test_it_has_at_most_60_megabytes_no_shell_and_no_other_program(image, capsys):
    size, names = size_of(image), files_of(image)
    with capsys.disabled():
        print(f"\nfigure: image: {size / MEGABYTE:.1f} MB in {len(names)} files (at most 60 MB)")
    assert size <= 60 * MEGABYTE
    programs = {name for name in names if (image / name).stat().st_mode & 0o111 and ".so" not in pathlib.Path(name).name}
    assert programs == {"usr/bin/sluice"}
    assert os.listdir(image / "usr/bin") == ["sluice"] and not (image / "bin").exists()
    assert not {pathlib.Path(name).name for name in names} & {"sh", "bash", "dash", "busybox", "perl", "apt", "dpkg"}


def test_nothing_of_nvidias_is_in_it(image):
    """It comes from the host, which has the driver that fits its kernel."""
    assert not [name for name in files_of(image) if re.search(r"libcuda|libnvidia|nccl", name)]


def test_nothing_in_it_is_set_uid_or_may_be_changed_by_others(image):
    for path in image.rglob("*"):
        if not path.is_symlink():
            assert not path.stat().st_mode & 0o6000, path
            assert path == image / "tmp" or not path.stat().st_mode & 0o022, path


def sbom_of(root):
    return json.loads((root / SBOM).read_text())


def test_the_bill_of_materials_names_every_file_with_its_package_and_its_bytes(image):
    bill = sbom_of(image)
    assert bill["spdxVersion"] == "SPDX-2.3" and bill["dataLicense"] == "CC0-1.0" and bill["SPDXID"] == "SPDXRef-DOCUMENT"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", bill["creationInfo"]["created"])
    assert {entry["fileName"].removeprefix("./") for entry in bill["files"]} == files_of(image) - {SBOM}
    packages = {package["SPDXID"]: package for package in bill["packages"]}
    files = {entry["SPDXID"]: entry for entry in bill["files"]}
    assert len(packages) == len(bill["packages"]) and len(files) == len(bill["files"])
    for name in [*packages, *files]:
        assert re.fullmatch(r"SPDXRef-[A-Za-z0-9.-]+", name)
    for entry in bill["files"]:
        data = (image / entry["fileName"]).read_bytes()
        sums = {checksum["algorithm"]: checksum["checksumValue"] for checksum in entry["checksums"]}
        assert sums == {"SHA1": hashlib.sha1(data).hexdigest(), "SHA256": hashlib.sha256(data).hexdigest()}, entry
    inside = {name: [] for name in packages}
    for relation in bill["relationships"]:
        if relation["relationshipType"] == "CONTAINS":
            inside[relation["spdxElementId"]].append(files[relation["relatedSpdxElement"]])
    assert sorted(entry["SPDXID"] for held in inside.values() for entry in held) == sorted(files)  # each in one package
    for name, package in packages.items():
        sums = sorted(entry["checksums"][0]["checksumValue"] for entry in inside[name])
        code = package["packageVerificationCode"]["packageVerificationCodeValue"]
        assert code == hashlib.sha1("".join(sums).encode()).hexdigest(), name
        if package["name"] == "sluice":
            assert {entry["fileName"].removeprefix("./") for entry in inside[name]} == OURS
            assert package["versionInfo"] == run("--version").stdout.split()[1]
        else:
            assert package["versionInfo"] and "Debian source package" in package["sourceInfo"]
            assert package["externalRefs"][0]["referenceLocator"].startswith("pkg:deb/debian/")


def test_every_package_in_it_brought_its_terms(image):
    for package in sbom_of(image)["packages"]:
        assert (image / "usr/share/doc" / package["name"] / "copyright").exists(), package["name"]


def test_a_file_that_nobody_owns_is_refused(copy):
    (copy / "usr/lib/planted.so").write_bytes(b"\x7fELF")
    done = sbom(copy)
    assert done.returncode == 1
    assert "no Debian package owns usr/lib/planted.so" in done.stderr


def test_a_file_that_is_not_as_its_package_brought_it_is_refused(copy):
    victim = next(path for path in copy.rglob("libjansson.so.4.*"))
    victim.write_bytes(victim.read_bytes() + b"\0")
    done = sbom(copy)
    assert done.returncode == 1
    assert f"{victim.name} is not as libjansson4:" in done.stderr


def test_a_changed_configuration_file_and_a_link_to_nowhere_are_refused(copy):
    driver = copy / "etc/libibverbs.d/mlx5.driver"
    said = driver.read_text()
    driver.write_text(said + "driver planted\n")
    assert "mlx5.driver is not as ibverbs-providers" in sbom(copy).stderr
    driver.write_text(said)
    next(copy.rglob("libjansson.so.4.*")).unlink()
    assert "which is not in the image" in sbom(copy).stderr


def test_a_device_and_an_odd_name_are_refused(copy):
    os.mkfifo(copy / "run/fifo")
    assert "neither a file nor a link" in sbom(copy).stderr
    (copy / "run/fifo").unlink()
    (copy / "etc/a b").write_text("")
    assert 'the name "etc/a b" has characters' in sbom(copy).stderr


def test_bad_arguments_get_one_sentence(tmp_path):
    assert mkroot().stderr == "mkroot: the form is mkroot.sh [--bootstrap] BUILD_DIR OUT_DIR\n"
    assert "there is no" in mkroot(tmp_path, tmp_path / "out").stderr
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").write_text("x")
    assert "not a root that this script made" in mkroot(SLUICE.parent, tmp_path / "full").stderr
    assert (tmp_path / "full" / "precious").exists()


# ---- It runs, as 65532, where it can write nothing. ----

def inside(root, *args, models=None):
    """The command line of sluice in the root: as 65532 without privileges, everything read-only, with what every engine
    mounts: /proc, /sys, of /dev the descriptors and shared memory."""
    script = f"""mount --make-rprivate / && mount --bind {root} {root} && mount -t proc proc {root}/proc &&
        mount --bind -o ro /sys {root}/sys &&
        mount -t tmpfs tmpfs {root}/dev && ln -s /proc/self/fd {root}/dev/fd && mkdir {root}/dev/shm &&
        mount -t tmpfs tmpfs {root}/dev/shm && mount -o remount,ro {root}/dev &&
        {f'mount --bind -o ro {models} {root}/models &&' if models else ''} mount -o remount,ro,bind {root} &&
        exec setpriv --no-new-privs chroot --userspec=65532:65532 --groups= {root} /usr/bin/sluice "$@" """
    return ["unshare", "--mount", "sh", "-c", script, "sh", *map(str, args)]


def can_enter():
    if os.geteuid() != 0:
        return False
    return subprocess.run(["unshare", "--mount", "mount", "--make-rprivate", "/"], capture_output=True).returncode == 0


enters = pytest.mark.skipif(not can_enter(), reason="entering a root needs root and a mount namespace")


def run_inside(root, *args, **more):
    return subprocess.run(inside(root, *args, **more), capture_output=True, text=True, timeout=PATIENCE)


@pytest.fixture(scope="module")
def shown(pack):
    """The folder with demo.pack, which everybody may read: who is inside is another user."""
    pack.parent.chmod(0o755)
    return pack.parent


@enters
def test_it_runs_as_65532_with_a_read_only_root(image, shown):
    done = run_inside(image, "version")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == run("version").stdout.splitlines()[0]
    done = run_inside(image, "inspect", "/models/demo.pack", models=shown)
    assert done.returncode == 0, done.stderr
    assert run_inside(image, "health", "--endpoint", f"127.0.0.1:{free_port()}").returncode == 69
    done = run_inside(image, "pack", "/models", "/tmp/pack", models=ROOT / "demo")
    assert done.returncode != 0 and "Read-only file system" in done.stderr


@enters
def test_a_whole_pipeline_serves_in_it_and_writes_nothing(image, shown, tmp_path):
    before = files_of(image)
    grpc, ops = (f"127.0.0.1:{free_port()}" for _ in range(2))
    log = tmp_path / "serve.log"
    with open(log, "wb") as to:
        server = subprocess.Popen(inside(image, "serve", "/models/demo.pack", "--stages", 2, "--threads", 1, "--listen", grpc,
                                         "--ops", ops, models=shown), stdout=to, stderr=to)
    try:
        def ready():
            assert server.poll() is None, log.read_text()
            return get(ops, "/readyz")[0] == 200
        wait_until(ready, "readiness of the image")
        here = run("generate", "--endpoint", grpc, "--prompt", "Once upon a time", "--max-tokens", 8)
        there = run_inside(image, "generate", "--endpoint", grpc, "--prompt", "Once upon a time", "--max-tokens", 8)
        assert here.returncode == 0 and there.returncode == 0, here.stderr + there.stderr
        assert here.stdout == there.stdout and here.stdout.strip()
        assert run_inside(image, "health", "--endpoint", grpc).returncode == 0
        pids = [int(pid) for pid in os.listdir("/proc") if pid.isdigit() and of_image(pid, ops)]
        assert pids, "no process of the image is seen"
        for pid in pids:
            status = pathlib.Path(f"/proc/{pid}/status").read_text()
            assert re.search(r"Uid:\t65532\t65532\t65532\t65532", status), status
            assert re.search(r"CapEff:\t0+\n", status) and re.search(r"NoNewPrivs:\t1\n", status)
    finally:
        server.terminate()
        server.wait(PATIENCE)
    assert files_of(image) == before


def of_image(pid, ops):
    try:
        words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    except OSError:
        return False
    return words[0] == "/usr/bin/sluice" and ops in words


# ---- The Dockerfile makes the same. ----

def test_the_dockerfile_says_what_a_kubelet_must_know():
    text = (IMAGE / "Dockerfile").read_text()
    final = text.rsplit("FROM scratch", 1)[1]
    assert "USER 65532:65532" in final and 'ENTRYPOINT ["/usr/bin/sluice"]' in final
    assert "org.opencontainers.image.version" in final and '"/usr/bin/sluice", "health"' in final
    version = re.search(r"project\(sluice VERSION ([0-9.]+)", (ROOT / "CMakeLists.txt").read_text()).group(1)
    assert f"ARG VERSION={version}\n" in final
    assert "ENV NVIDIA" not in text
    for line in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.M):
        for name in line.split():
            assert (ROOT / name).exists(), name


def test_the_packages_of_the_image_own_what_the_program_is_linked_with_and_opens():
    """deploy/image/packages is what the Dockerfile and --bootstrap install: nothing in it is idle, nothing is missing."""
    named = set((IMAGE / "packages").read_text().split())
    linked = subprocess.run(["objdump", "-p", SLUICE], capture_output=True, text=True, check=True).stdout
    libraries = set(re.findall(r"NEEDED +(\S+)", linked)) - {"libc.so.6", "libm.so.6", "libgcc_s.so.1"}
    libraries = {name for name in libraries if not name.startswith("ld-linux")}
    libraries |= {name for name in (IMAGE / "opened").read_text().split() if "/" not in name}
    owners = set()
    for name in libraries:
        found = subprocess.run(["dpkg-query", "-S", f"*/{name}"], capture_output=True, text=True, check=True).stdout
        owners |= {line.split(":")[0] for line in found.splitlines()}
    assert owners == named


@enters
@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("mmdebstrap"), reason="no mmdebstrap: the image of a fresh Debian is not made")
def test_a_fresh_debian_gives_the_same_image(image, tmp_path, capsys):
    fresh = tmp_path / "fresh"
    done = mkroot("--bootstrap", SLUICE.parent, fresh)
    assert done.returncode == 0, done.stderr
    with capsys.disabled():
        print(f"\nfigure: image of a fresh Debian: {size_of(fresh) / MEGABYTE:.1f} MB (at most 60 MB)")
    assert size_of(fresh) <= 60 * MEGABYTE

    def names(root):
        return {package["name"] for package in sbom_of(root)["packages"]}
    assert names(fresh) == names(image)
    assert run_inside(fresh, "version").stdout.splitlines()[0] == run("version").stdout.splitlines()[0]


class Buildah:
    """buildah with a store of its own, without namespaces: as root it needs none."""

    def __init__(self, folder):
        self.folder = folder
        # its defaults ask for more than a hard limit here and there
        (folder / "containers.conf").write_text('[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]\n')
        self.env = {**os.environ, "CONTAINERS_CONF": str(folder / "containers.conf"), "TMPDIR": str(folder)}
        self.program = ["buildah", "--storage-driver", "vfs", "--root", folder / "store", "--runroot", folder / "run"]

    def __call__(self, *args):
        done = subprocess.run([*self.program, *args], capture_output=True, text=True, timeout=PATIENCE * 4, env=self.env)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def image_of(self, name, what, where):
        """An image with nothing but that file, or what an archive holds."""
        container = self("from", "scratch")
        self("add", "-q", container, what, where)
        self("commit", "-q", container, name)
        self("rm", container)


@enters
@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("mmdebstrap") or not shutil.which("buildah"), reason="no mmdebstrap or buildah: the Dockerfile is not built")
def test_the_dockerfile_builds_the_image_that_it_says(image, tmp_path, capsys):
    """From its second stage on, the first being `./dev build`; the Debian that it asks a registry for is made here."""
    buildah = Buildah(tmp_path)
    subprocess.run(["mmdebstrap", "--quiet", "--variant=minbase", "bookworm", tmp_path / "debian.tar"], check=True, timeout=PATIENCE * 4)
    subprocess.run(["strip", "-o", tmp_path / "sluice", SLUICE], check=True)
    buildah.image_of("docker.io/library/debian:12-slim", tmp_path / "debian.tar", "/")
    buildah.image_of("localhost/built", tmp_path / "sluice", "/src/build/sluice")
    buildah("bud", "--isolation", "chroot", "--network", "host", "--pull=never", "--format", "docker", "--build-arg",
            "BUILT=localhost/built", "-f", IMAGE / "Dockerfile", "-t", "localhost/sluice", ROOT)
    config = json.loads(buildah("inspect", "--type", "image", "localhost/sluice"))["Docker"]["config"]
    assert config["User"] == "65532:65532" and config["Entrypoint"] == ["/usr/bin/sluice"]
    assert config["Healthcheck"]["Test"] == ["CMD", "/usr/bin/sluice", "health"]
    assert config["Labels"]["org.opencontainers.image.version"] == run("--version").stdout.split()[1]
    container = buildah("from", "--pull=never", "localhost/sluice")
    root = pathlib.Path(buildah("mount", container))
    with capsys.disabled():
        print(f"\nfigure: image of the Dockerfile: {size_of(root) / MEGABYTE:.1f} MB (at most 60 MB)")
    assert size_of(root) <= 60 * MEGABYTE
    assert {package["name"] for package in sbom_of(root)["packages"]} == {package["name"] for package in sbom_of(image)["packages"]}
    assert run_inside(root, "version").returncode == 0
    buildah("umount", container)
