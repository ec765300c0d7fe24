"""Our derivations are built and ComfyUI is started from the store, by a user who may write to its folder alone."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.harness.demo import example
from tests.harness.models import ensure_models
from tests.harness.read_only import contents
from tests.harness.server import Server, free_port
from tests.training.checkpoint import NAME

from .build import Store
from .right import configured

NOBODY = 65534


def unprivileged() -> tuple[str, ...]:
    """What to put before a command, so that it runs as a user who may write only what is his.

    Where Python lies below a folder that is closed to others, such as /root, that user may read everything.
    """
    if os.geteuid() != 0:
        return ()
    homes = [Path(folder).resolve() for folder in (sys.base_prefix, sys.prefix)]
    closed = any(not folder.stat().st_mode & 0o001 for home in homes for folder in (home, *home.parents))
    kept = "-all,+dac_read_search" if closed else "-all"
    capabilities = (f"--{kind}={kept}" for kind in ("inh-caps", "ambient-caps", "bounding-set"))
    return ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs", *capabilities)


UNPRIVILEGED = unprivileged()


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder that every user can get to, unlike pytest's."""
    with tempfile.TemporaryDirectory(prefix="xpu-nodes-nix-") as name:
        Path(name).chmod(0o755)
        yield Path(name)
        subprocess.run(["chmod", "-R", "u+w", name], check=True)  # a store can be written by nobody


@pytest.fixture(scope="module")
def store(folder: Path) -> Store:
    with pytest.MonkeyPatch.context() as machine:
        machine.setenv("NIX_REMOTE", "daemon")  # as where Nix is installed for many users
        return Store(folder)


@pytest.fixture(scope="module")
def pack(store: Store) -> Path:
    return store.build("nodes")[0]


def test_the_pack_in_the_store_is_what_comfyui_loads_and_nothing_else(pack: Path) -> None:
    names = {path.name for path in pack.iterdir()}
    assert {"__init__.py", "prestartup_script.py", "nodes", "xpu_utils", "web", "locales", "pyproject.toml"} <= names
    assert not names & {"tests", "nix", "docs", "Makefile"}


@pytest.mark.parametrize(("variant", "driver"), [("xpu", True), ("cpu", False)])
def test_both_variants_have_every_program_and_only_one_brings_a_driver(
    store: Store, variant: str, driver: bool
) -> None:
    (package,) = store.build(variant)
    programs = {path.name: path.read_text() for path in (package / "bin").iterdir()}
    assert programs.keys() >= {"comfyui-xpu", "comfyui-xpu-doctor", "comfyui-xpu-bench"}
    for text in programs.values():
        assert text.startswith(f"#!{shutil.which('bash')}\n"), "NixOS has no /bin/bash"
        assert "/run/opengl-driver/lib" in text
        assert ("level-zero" in text) is driver


def test_the_package_is_one_that_nixpkgs_service_takes(store: Store) -> None:
    """services.comfyui overrides extraPackages, copies folders of share/comfyui and calls the main program."""
    (package,) = store.build("cpu")
    assert all((package / "share/comfyui" / name).is_dir() for name in ("custom_nodes", "input", "output", "models"))
    done = subprocess.run([package / "bin/comfyui", "--help"], capture_output=True, text=True)
    assert "--base-directory" in done.stdout, done.stderr


def test_the_doctor_of_the_store_answers_without_the_repository(store: Store, folder: Path) -> None:
    (package,) = store.build("cpu")
    command = [*UNPRIVILEGED, str(package / "bin/comfyui-xpu-doctor"), "--json", "--need", "xpu"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    assert any(finding["state"] == "error" for finding in json.loads(done.stdout))


def test_comfyui_from_the_store_draws_the_demo_s_picture(store: Store, pack: Path, folder: Path) -> None:
    data, port = folder / "data", free_port()
    data.mkdir()
    if UNPRIVILEGED:
        os.chown(data, NOBODY, NOBODY)
    model = folder / f"{NAME}.safetensors"
    shutil.copyfile(ensure_models(NAME) / "checkpoints" / model.name, model)  # his to read, wherever ours lies
    files = {f"checkpoints/{model.name}": {"path": str(model)}}
    settings = configured(
        acceleration="cpu", dataDir=str(data), port=port, models={"files": files}, extraArgs=["--disable-auto-launch"]
    )
    link, start = store.build("link", "start", settings=json.dumps(settings))
    before = contents(pack)
    written = subprocess.run([*UNPRIVILEGED, "touch", str(pack / "nodes/mine")], capture_output=True, text=True)
    assert "Permission denied" in written.stderr
    subprocess.run([*UNPRIVILEGED, str(link)], check=True)
    assert (data / "custom_nodes/vm-node").is_symlink()
    with (folder / "server.log").open("wb") as log:
        environment = {"HOME": str(data), "OMP_NUM_THREADS": "1", "PATH": os.environ["PATH"]}
        process = subprocess.Popen([*UNPRIVILEGED, str(start)], stdout=log, stderr=log, cwd=data, env=environment)
    server = Server(process, f"127.0.0.1:{port}", data, folder / "server.log")
    try:
        server.wait_ready(300)
        assert {"XPUOllamaPrompt", "VMNode"} <= server.client.get("/object_info").keys()
        result = server.client.run(example("cpu", NAME, "octopus"), timeout_s=300)
        assert result.error is None, result.message
        assert Image.open(io.BytesIO(server.client.image(result, "save"))).size == (256, 256)
    finally:
        server.stop()
    assert contents(pack) == before
