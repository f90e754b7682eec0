"""What a distribution wants of a program: man pages, completions, a Debian package. All are made of the option tables, so what is
looked at is that they say what --help says, that roff, bash, zsh and dpkg take them, and that the package runs."""
import gzip
import os
import pathlib
import re
import shutil
import subprocess

import pytest

from conftest import PATIENCE, ROOT, SLUICE, run


def commands():
    """Names as the overview lists them, those of two words too."""
    listed = re.search(r"\[options\]\n\n(.*?)\n\n", run("--help").stdout, re.S).group(1)
    names = []
    for line in listed.splitlines():
        words = line.split()
        names.append(" ".join(words[:2]) if words[0] == "bench" else words[0])
    return names


def options_of(command):
    """{option: its placeholder} of --help."""
    return dict(re.findall(r"^  --(\S+)(?: (\S+))?", run(*command.split(), "--help").stdout, re.M))


COMMANDS = commands()


# ---- Man pages. ----

@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("man")
    done = run("man", folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_there_is_a_page_for_every_command_with_every_option(pages):
    assert {page.name for page in pages.iterdir()} == {f"sluice-{name.replace(' ', '-')}.1" for name in COMMANDS} | {"sluice.1"}
    overview = (pages / "sluice.1").read_text()
    for name in COMMANDS:
        page = (pages / f"sluice-{name.replace(' ', '-')}.1").read_text()
        assert "\\fBsluice\\-" + name.replace(" ", "\\-") + "\\fR(1)" in overview, name
        for option in options_of(name):
            escaped = option.replace("-", "\\-")
            assert f"\\fB\\-\\-{escaped}\\fR" in page, (name, option)
            assert "SLUICE_" + option.upper().replace("-", "_") in page, (name, option)


@pytest.mark.skipif(not shutil.which("groff"), reason="no groff: man pages are not rendered")
def test_roff_has_nothing_to_say_of_a_page(pages):
    for page in sorted(pages.iterdir()):
        done = subprocess.run(["groff", "-man", "-ww", "-Kutf8", "-Tutf8", page], capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0 and not done.stderr, (page.name, done.stderr)
    text = re.sub("\x1b\\[[0-9;]*m|.\b", "", done.stdout)  # bold, in one of two ways
    assert "sluice-" in text and "EXIT STATUS" in text and "\\" not in text


def test_pages_that_can_not_be_written_get_one_sentence(tmp_path):
    done = run("man", tmp_path / "nowhere")
    assert done.returncode == 74 and "give a directory that exists" in done.stderr and done.stderr.count("\n") == 1


# ---- Completions. ----

@pytest.fixture(scope="module")
def bash(tmp_path_factory):
    script = tmp_path_factory.mktemp("bash") / "sluice"
    script.write_text(run("completion", "bash").stdout)

    def complete(*words, folder=ROOT):
        """What a tab offers behind these words, as bash would cut them."""
        asked = ' '.join(f"'{word}'" for word in ("sluice", *words))
        done = subprocess.run(["bash", "--norc", "-c", f"source {script}; COMP_WORDS=({asked}); COMP_CWORD={len(words)}; _sluice; "
                               'printf "%s\\n" "${COMPREPLY[@]}"'], capture_output=True, text=True, timeout=PATIENCE, cwd=folder)
        assert done.returncode == 0 and not done.stderr, done.stderr
        return done.stdout.split()
    return complete


def test_bash_completes_commands(bash):
    assert set(bash("")) == {name.split()[0] for name in COMMANDS} | {"--help"}
    assert bash("coo") == ["coordinator"]
    assert set(bash("bench", "")) == {name.split()[1] for name in COMMANDS if " " in name}
    assert bash("bench", "ker") == ["kernels"]


def test_bash_completes_the_options_of_every_command(bash):
    for name in COMMANDS:
        offered = {word.removeprefix("--no-").removeprefix("--") for word in bash(*name.split(), "--")}
        assert offered == {option.removeprefix("no-") for option in options_of(name)} | {"config", "help"}, name


def test_bash_completes_values_and_files(bash, tmp_path):
    assert bash("serve", "--kv", "") == ["auto", "bf16", "i8", "f32"]
    assert bash("serve", "--kv", "b") == ["bf16"]
    assert bash("serve", "--kv", "=", "i") == ["i8"]  # bash cuts --kv=i
    assert bash("serve", "--kv", "=") == ["auto", "bf16", "i8", "f32"]
    assert bash("serve", "--stages", "") == []
    (tmp_path / "some.pack").write_text("")
    assert bash("serve", "so", folder=tmp_path) == ["some.pack"]
    assert bash("serve", "--config", "so", folder=tmp_path) == ["some.pack"]
    assert bash("generate", "--prompt-file", "so", folder=tmp_path) == ["some.pack"]
    assert bash("no-such-command", "--") == []


def test_a_shell_that_has_no_completion_gets_one_sentence():
    done = run("completion", "fish")
    assert done.returncode == 64 and 'there is no completion for "fish"; give bash or zsh' in done.stderr


@pytest.mark.skipif(not shutil.which("zsh"), reason="no zsh: its completion is not tried")
def test_zsh_reads_its_completion_and_every_spec_in_it(tmp_path):
    (tmp_path / "_sluice").write_text(run("completion", "zsh").stdout)
    # _arguments is replaced by one that prints what it gets: every option must have arrived, in one word
    asked = "; ".join(f"print '== {name}'; words=(sluice {name} --) CURRENT={2 + len(name.split())}; _sluice" for name in COMMANDS)
    done = subprocess.run(["zsh", "-f", "-c", f"compdef() {{ }}; _arguments() {{ print -l -- $@ }}; source {tmp_path}/_sluice; "
                           f"{asked}"], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0 and not done.stderr, done.stderr
    for part, name in zip(done.stdout.split("== ")[1:], COMMANDS, strict=True):
        lines = part.splitlines()
        assert lines[0] == name
        got = {re.match(r"--(?:no-)?([a-z0-9-]+)=?\[", line).group(1) for line in lines[1:] if line.startswith("--")}
        assert got == set(options_of(name)) | {"config", "help"}, name


# ---- The Debian package. ----

@pytest.fixture(scope="module")
def deb(tmp_path_factory):
    if not shutil.which("dpkg-shlibdeps"):
        pytest.skip("no dpkg-dev: the package is not made")
    done = subprocess.run([ROOT / "deploy/deb/mkdeb.sh", SLUICE.parent, tmp_path_factory.mktemp("deb")], capture_output=True,
                          text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return pathlib.Path(done.stdout.strip())


@pytest.fixture(scope="module")
def unpacked(deb, tmp_path_factory):
    root = tmp_path_factory.mktemp("root")
    subprocess.run(["dpkg-deb", "-x", deb, root], check=True, timeout=PATIENCE)
    return root


def field(deb, name):
    return subprocess.run(["dpkg-deb", "-f", deb, name], capture_output=True, text=True, check=True).stdout.strip()


def test_the_package_depends_on_what_it_is_linked_with(deb):
    needs = {part.split()[0] for part in field(deb, "Depends").split(", ")}
    image = set((ROOT / "deploy/image/packages").read_text().split())
    assert needs - {"libc6", "libgcc-s1"} == image  # the image is made of the same
    assert field(deb, "Version") == run("--version").stdout.split()[1]


def test_what_is_installed_runs_and_has_its_pages_units_and_completions(unpacked):
    program = unpacked / "usr/bin/sluice"
    done = subprocess.run([program, "version"], capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout == run("version").stdout
    for name in COMMANDS:
        page = unpacked / f"usr/share/man/man1/sluice-{name.replace(' ', '-')}.1.gz"
        assert gzip.decompress(page.read_bytes()).startswith(b".\\\"")
    assert (unpacked / "usr/share/bash-completion/completions/sluice").read_text() == run("completion", "bash").stdout
    assert (unpacked / "usr/share/zsh/vendor-completions/_sluice").read_text() == run("completion", "zsh").stdout
    units = {unit.name for unit in (unpacked / "lib/systemd/system").iterdir()}
    assert units == {unit.name for unit in (ROOT / "deploy/systemd").glob("*.service")}
    for source in ("README.md", "runbook.md", "systemd/gpu.conf"):
        shown = unpacked / "usr/share/doc/sluice" / pathlib.Path(source).name
        assert shown.read_text() == (ROOT / "deploy" / source).read_text()


def test_the_configuration_files_of_the_package_are_ones_that_the_units_name_and_roles_read(unpacked, deb):
    conffiles = subprocess.run(["dpkg-deb", "-I", deb, "conffiles"], capture_output=True, text=True, check=True).stdout.split()
    named = set()
    for unit in (unpacked / "lib/systemd/system").iterdir():
        named |= set(re.findall(r"--config (\S+)", unit.read_text()))
    assert named == set(conffiles)
    for name in conffiles:
        path = unpacked / name.lstrip("/")
        done = run(path.stem, "--config", path, "/nowhere")
        assert done.returncode == 65 and "/nowhere" in done.stderr, done.stderr


def test_dpkg_installs_and_removes_it(deb, tmp_path):
    if os.geteuid() != 0:
        pytest.skip("dpkg installs as root only")
    root = tmp_path / "root"
    (root / "var/lib/dpkg/info").mkdir(parents=True)
    (root / "var/lib/dpkg/updates").mkdir()
    (root / "var/lib/dpkg/status").write_text("")
    dpkg = ["dpkg", f"--root={root}", "--force-depends", "--force-script-chrootless", "--log=/dev/null"]
    done = subprocess.run([*dpkg, "-i", deb], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert (root / "usr/bin/sluice").exists()
    done = subprocess.run(["dpkg", f"--root={root}", "--verify", "sluice"], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0 and not done.stdout, done.stdout
    done = subprocess.run([*dpkg, "--purge", "sluice"], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0 and not (root / "usr/bin/sluice").exists() and not (root / "etc/sluice").exists(), done.stderr


@pytest.mark.skipif(not shutil.which("lintian"), reason="no lintian: the package is not looked over")
def test_lintian_finds_nothing(deb):
    done = subprocess.run(["lintian", "--allow-root", "--tag-display-limit", "0", deb], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0 and not done.stdout, done.stdout
