"""Files of a Debian package for tests, unpacked into the cache folder: nothing is installed, no service is started. Where it can't be had,
the test is skipped with the reason."""
import fcntl
import os
import pathlib
import shutil
import subprocess
import tempfile

import pytest

CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "sluice"


def unpacked(package):
    """The folder, made once: other sessions of these tests wait for it."""
    reason = why_not(package)
    if reason:
        pytest.skip(reason)
    return CACHE / package


def why_not(package):
    """None: it is there, now at the latest."""
    folder = CACHE / package
    if folder.exists():
        return None
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        return f"there is no {package}, and no Debian to have it from"
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / f"{package}.lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return None if folder.exists() else unpack(package, folder)


def unpack(package, folder):
    with tempfile.TemporaryDirectory(dir=CACHE) as work:
        got = subprocess.run(["apt-get", "download", package], cwd=work, capture_output=True, text=True)
        debs = list(pathlib.Path(work).glob("*.deb"))
        if got.returncode != 0 or not debs:
            return f"Debian's {package} can't be had: {(got.stderr or got.stdout).strip()[-200:]}"
        subprocess.run(["dpkg-deb", "-x", debs[0], pathlib.Path(work) / "root"], check=True)
        os.rename(pathlib.Path(work) / "root", folder)
    return None
