"""Our loaders against ComfyUI's own way with a file: equal weights, each read once and held once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.harness.hosts import answer_in_comfyui, host_environment
from tests.harness.models import MODELS, ensure_models

from .worker import answers

# More device than host memory, so that ComfyUI's loaders put weights onto the device at once; and less than a model.
DEVICES = [{"preset": "arc-b580", "total_bytes": 64 << 30}, {"preset": "arc-b580", "total_bytes": 512 << 20}]
LAYOUTS = ("sd15-tiny", "sd15-tiny-unet", "clip-l", "vae-sd15", "controlnet-sd15-tiny")

ACTIVATION_BYTES = 64 << 20
"""Of sampling and decoding 32x32 pixels, and what oneDNN keeps of its own."""

PEAK_SCRIPT = """
import json, re
from pathlib import Path
name, precision, models = arguments
import torch, folder_paths, nodes
from server import PromptServer
PromptServer.instance = None  # no server, so no prompt that faults belong to
from xpu_utils.host.loading import load as loading
from xpu_utils.host.inventory import placement_for
folder_paths.add_model_folder_path("checkpoints", models)

def resident(what):
    return int(re.search(what + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) << 10

Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
before = resident("VmRSS")
with torch.inference_mode():
    (model, clip, vae), _ = loading.load_checkpoint(name, placement_for("cpu", precision))
    loaded = resident("VmHWM")
    words = clip.encode_from_tokens_scheduled(clip.tokenize("a lighthouse"))
    empty = {"samples": torch.zeros(1, 4, 4, 4)}
    (latent,) = nodes.common_ksampler(model, 0, 2, 7.0, "euler", "normal", words, words, empty)
    vae.decode(latent["samples"])
modules = (model.model, clip.cond_stage_model, vae.first_stage_model)
weights = sum(tensor.nbytes for module in modules for tensor in module.parameters())
loaded, peak, now = ((size - before) / weights for size in (loaded, resident("VmHWM"), resident("VmRSS")))
print(json.dumps({"weights": weights, "loaded": loaded, "peak": peak, "now": now}))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, host: Path) -> Any:
    ensure_models(*LAYOUTS)
    base = tmp_path_factory.mktemp("loading")
    return answers("loading_cases", {"devices": DEVICES}, base, host, host_environment())


def test_every_weight_is_the_hosts_bit_for_bit(found: Any) -> None:
    assert {case: names for case, names in found["like_the_host"].items() if names} == {}
    assert len(found["like_the_host"]) == 30


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_each_byte_of_the_model_crosses_to_the_device_once_from_pinned_memory(found: Any, precision: str) -> None:
    told = found["straight_to_the_device"][precision]
    assert told["devices"] == ["xpu:0"]
    assert told["pinned"] == told["file"]
    assert told["pageable"] < 1 << 16, "noise levels and the like, which ComfyUI computes"
    assert told["locked"] == 0


def test_a_model_that_fits_is_read_to_its_device_only(found: Any) -> None:
    fits, shared, small = (found["a_file_for_the_device"][at] for at in ("xpu:0 auto", "xpu:0 45%", "xpu:1 auto"))
    assert fits["devices"] == ["xpu:0"]
    assert fits["pinned"] == fits["file"]
    assert fits["pageable"] < 1 << 16
    for waits in (shared, small):
        assert waits["devices"] == ["cpu"]
        assert waits["pinned"] + waits["pageable"] < 1 << 16


def test_a_model_that_does_not_fit_is_read_to_where_it_streams_from(found: Any) -> None:
    told = found["a_file_for_the_device"]
    assert told["xpu:0 auto"]["locked"] == 0
    for streamed in (told["xpu:0 45%"], told["xpu:1 auto"]):
        assert streamed["mapped"] == streamed["file"]
        assert streamed["locked"] == 0, "what streams is locked once it is known"
        assert streamed["still locked"] == 0
    assert told["differences"] == []


def test_the_device_holds_the_model_once_and_each_weight_by_itself(found: Any) -> None:
    as_it_is, converted = found["straight_to_the_device"]["fp16"], found["straight_to_the_device"]["fp32"]
    assert 1 <= as_it_is["held"] < 1.02
    assert as_it_is["peak"] < 1.02
    assert 1 <= converted["held"] < 1.02
    assert as_it_is["freed"] == pytest.approx(1, abs=0.02)
    assert converted["freed"] == pytest.approx(1, abs=0.02)


def test_a_full_pinned_budget_refuses_nothing(found: Any) -> None:
    assert found["full_pinned_budget"]["differences"] == []


@pytest.mark.parametrize("device", ["cpu fp32", "xpu:0 fp32", "xpu:0 auto", "xpu:0 unlocked"])
def test_a_file_that_breaks_while_it_is_read_is_one_sentence_and_leaves_nothing(found: Any, device: str) -> None:
    disk, cut = found["broken_files"][f"disk {device}"], found["broken_files"][f"cut {device}"]
    assert disk["said"].startswith("sd15-tiny.safetensors could not be read at byte ")
    assert disk["said"].endswith(" (Input/output error): check the disk.")
    assert cut["said"] == "sd15-tiny.safetensors was truncated while it was read: download it again."
    assert [(entry["left"], entry["locked"]) for entry in (disk, cut)] == [(0, 0)] * 2


def test_a_cpu_maps_what_keeps_its_format_and_layout(found: Any) -> None:
    mapping = found["mapping"]
    assert mapping["mapped"]["2"] == mapping["of"]["2"] > 100
    assert mapping["mapped"]["4"] == 0 < mapping["of"]["4"], "their layout changes: mapped, they would be held twice"
    assert mapping["unchanged"]


def test_a_mapped_file_that_was_cut_ends_the_stage_and_not_the_process(found: Any) -> None:
    assert found["cut_while_in_use"].startswith("cut.safetensors was cut while its weights were in use: put the whole")


def test_fp32_weights_begin_where_the_hosts_do(found: Any) -> None:
    assert found["unaligned_fp32"]["in_file"] != 0
    assert found["unaligned_fp32"]["in_model"] == []


def test_a_vae_is_read_once_although_the_host_converts_it_twice(found: Any) -> None:
    assert found["read_once"] == pytest.approx({"bf16": 1, "fp32": 1}, abs=0.01)


def test_what_the_host_changes_in_a_files_weights_is_kept(found: Any) -> None:
    assert found["written_before_it_is_loaded"]


def test_the_progress_bar_counts_the_files_bytes(found: Any) -> None:
    assert found["progress"]["ordered"]
    assert found["progress"]["last"]
    assert 3 < found["progress"]["updates"] < 110


def test_a_model_that_is_collected_meanwhile_is_unloaded(found: Any) -> None:
    assert found["unloading_what_only_refers_to_itself"] == 0


def test_a_reader_of_another_pack_is_left_in_charge(found: Any) -> None:
    told = found["another_pack"]
    assert told["called"] == 1
    assert told["said"] == ("straight loading: off, load_torch_file was replaced by tests.sim_host.loading_cases")
    assert told["after"].startswith("straight loading: on")
    assert told["restored"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_loading_and_sampling_take_little_more_than_the_weights(host: Path, precision: str) -> None:
    ensure_models("sd15-tiny")
    told = answer_in_comfyui(host, PEAK_SCRIPT, "sd15-tiny.safetensors", precision, str(MODELS / "checkpoints"))
    assert told["weights"] > 500e6
    assert told["loaded"] < 1.3
    assert told["peak"] < 1.3 + ACTIVATION_BYTES / told["weights"]
