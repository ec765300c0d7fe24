"""Model files are judged before the host reads them."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import pickle
import random
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from xpu_utils.weights.check import CheckpointError, check_file, check_header, first_not_finite

GOOD = save({"weight": torch.ones(16, 16)})


def pickled(content: object, *, archive: bool = True) -> bytes:
    """What `torch.save` writes, as a zip archive or in the format before that."""
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=archive)
    return stream.getvalue()


def scripted() -> bytes:
    """An archive that PyTorch knows as TorchScript, as `torch.jit.save` writes it, without a program."""
    stream = io.BytesIO(pickled({"weight": torch.ones(2)}))
    with zipfile.ZipFile(stream, "a") as archive:
        archive.writestr("archive/constants.pkl", b"")
    return stream.getvalue()


PICKLE = {
    archive: pickled({"state_dict": {"weight": torch.ones(16, 16)}}, archive=archive) for archive in (True, False)
}


def headed(header: object) -> bytes:
    """A file of nothing but a header, which may be bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text


def entry(dtype: str, shape: list[int], *, name: str = "a.weight", offsets: tuple[int, int] = (0, 24)) -> bytes:
    """A file of one tensor of 24 bytes."""
    return headed({name: {"dtype": dtype, "shape": shape, "data_offsets": offsets}}) + bytes(24)


def test_a_good_file_passes(tmp_path: Path) -> None:
    path = tmp_path / "good.safetensors"
    save_file({"weight": torch.ones(4)}, path)
    check_file(path, pickles_allowed=False)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty: download it again"),
        (b"\x89PNG\r\n\x1a\n" + b"x" * 100, "is a PNG picture, not a safetensors file"),
        (b"<!DOCTYPE html><html>" + b"x" * 100, "is a web page"),
        (b"\xef\xbb\xbf\r\n <html>" + b"x" * 100, "is a web page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "is a web page"),
        (b'{"error":"Unauthorized","message":"log in"}', "is a text in JSON, perhaps a failed download"),
        (b'{\n  "error": {}\n}', "is a text in JSON"),
        (b"{}", "is a text in JSON"),
        (b'[{"detail": "gone"}]', "is a text in JSON"),
        ((8827).to_bytes(8, "little") + b'{"weight"', "truncated or corrupt"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "is a Git LFS pointer"),
        (b"GGUF" + b"x" * 100, "is a GGUF file"),
        (b"\0\0\0\x18ftypmp42" + bytes(100), "is a video, not a safetensors file"),
        (b"RIFF\x24\x08\0\0WAVEfmt " + bytes(100), "is a sound"),
        (b"\x08\x08\x12\x07pytorch" + bytes(100), "is an ONNX model"),
        (b"7z\xbc\xaf\x27\x1c\0\4" + bytes(100), "is a packed archive"),
        (b"Rar!\x1a\x07\x01\0" + bytes(100), "is a packed archive"),
        (b"# My model\n\nIt paints, and it paints well.", "is a text, not"),
        (b"\xab" * 100, "is no safetensors file: get the right file"),
        ((0x8B1F).to_bytes(8, "little") + b'{"weight"', "truncated or corrupt"),
        (GOOD[:-1], "truncated or corrupt"),
        (GOOD[:40], "truncated or corrupt"),
        (save({}), "holds no tensors: download it again"),
        (headed({"__metadata__": {"a": "b"}}), "holds no tensors"),
        (headed([]), "its header is damaged"),
        (headed(b"[" * 200_000), "its header is damaged"),
        (headed(b"\xff\xfe{}"), "truncated or corrupt"),
        (entry("F32", [-2, -3]), "a.weight is not where its header says"),
        (entry("F4", [-48]), "a.weight is not where"),
        (entry("F4", [2**62, 2**62]), "a.weight is not where"),
        (entry("F4", [10**40]), "a.weight is not where"),
        (entry("F32", [0, 10**40]), "a.weight is not where"),
        (entry("F32", [1] * 65 + [6]), "a.weight is not where"),
        (entry("F32", [6], offsets=(24, 0)), "a.weight is not where"),
        (entry("", [6]), "a.weight has no dtype"),
        (entry("F32", [7], name="a\n\x1b[31m" + "b" * 1000), r"\(a\?\?\[31mb+ is not where"),
    ],
)
def test_a_bad_file_is_refused_with_what_it_is(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=says) as caught:
        check_file(path, pickles_allowed=True)
    assert "\n" not in str(caught.value)


def test_what_is_no_file_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    (tmp_path / "folder.safetensors").mkdir()
    os.mkfifo(tmp_path / "pipe.safetensors")
    for name, says in (("folder", "is a folder"), ("pipe", "is a pipe or a device"), ("none", "check its name")):
        for check in (functools.partial(check_file, pickles_allowed=True), check_header):
            with pytest.raises(CheckpointError, match=f"^{name}.safetensors .*{says}"):
                check(tmp_path / f"{name}.safetensors")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("m.gguf", b"GGUF" + b"x" * 100, "is a GGUF file: what a file holds is told of safetensors files only"),
        ("m.ckpt", PICKLE[True], "is a zip archive or a PyTorch pickle: what a file holds"),
        ("m.ckpt", PICKLE[False], "is a Python pickle: what a file holds"),
        ("m.safetensors.index.json", b'{"weight_map": {}}', "lists the parts that a model was split into: name one"),
        ("m.json", b'{"weight_map": {}}', "is a text in JSON"),
        ("m.safetensors", GOOD[:-1], "truncated or corrupt"),
    ],
)
def test_a_file_without_a_header_is_told_for_what_it_is(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"^{name} .*{says}"):
        check_header(tmp_path / name)


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".PTH", ".bin"])
def test_pickles_are_refused_unless_the_host_reads_them_safely(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    torch.save({"weight": torch.ones(2)}, path)
    check_file(path, pickles_allowed=True)
    with pytest.raises(CheckpointError, match="is a pickle"):
        check_file(path, pickles_allowed=False)


@pytest.mark.parametrize("archive", [True, False])
def test_a_good_pickle_passes(tmp_path: Path, archive: bool) -> None:
    path = tmp_path / "good.ckpt"
    path.write_bytes(PICKLE[archive])
    check_file(path, pickles_allowed=True)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol", "ignore:'torch.load' received")
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\x89PNG\r\n\x1a\n" + b"x" * 100, "is a PNG picture, not a PyTorch file"),
        (b"<!DOCTYPE html><html>" + b"x" * 100, "is a web page"),
        (GOOD, "is a safetensors file, not a PyTorch file"),
        (b'{"error":"Unauthorized"}', "is a text in JSON"),
        (b"random text", "is a text, not a PyTorch file"),
        (scripted(), "is a TorchScript program, which ComfyUI does not load: get the model's weights"),
        (PICKLE[True][:-100], "truncated or corrupt"),
        (PICKLE[False][:-100], "truncated or corrupt"),
        (pickled([torch.ones(2)]), "holds a list, not weights by name"),
        (pickled({"epoch": 3}), "holds no tensors"),
        (pickle.dumps({"weight": pytest.raises}), "is a pickle that holds more than weights and was not read"),
    ],
)
def test_a_bad_pickle_is_refused_with_what_it_is(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "model.ckpt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=says) as caught:
        check_file(path, pickles_allowed=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("archive", [True, False])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_no_damage_to_a_pickle_gives_another_error(tmp_path: Path, archive: bool) -> None:
    path, chance = tmp_path / "model.pt", random.Random(5)
    for _ in range(300):
        damaged = bytearray(PICKLE[archive][: chance.randint(1, len(PICKLE[archive]))])
        for _ in range(chance.randint(0, 20)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        path.write_bytes(damaged)
        with contextlib.suppress(CheckpointError):
            check_file(path, pickles_allowed=True)


@settings(max_examples=60)
@given(cut=st.integers(min_value=0, max_value=len(GOOD) - 1))
def test_no_truncation_passes(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.mktemp("cut") / "model.safetensors"
    path.write_bytes(GOOD[:cut])
    with pytest.raises(CheckpointError):
        check_file(path, pickles_allowed=True)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_first_weight_that_is_not_finite_is_named(bad: float, dtype: torch.dtype) -> None:
    weights = {"a": torch.ones(3, dtype=dtype), "ids": torch.arange(3), "b": torch.tensor([1.0, bad], dtype=dtype)}
    assert first_not_finite(weights) == "b"
    unseen = torch.zeros(2, device="meta")  # as GGUF's pack shows what is quantised
    assert first_not_finite({"a": weights["a"], "ids": weights["ids"], "unseen": unseen}) is None
