"""A machine without AVX512 and bf16, simulated by hiding instructions from PyTorch and oneDNN."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MASKS = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "1"}

PROBE = """
import dataclasses, torch
from xpu_utils.cpu import measure as cpu_measure
from xpu_utils.cpu import onednn
from xpu_utils.cpu.attention import AttentionPath, attention
from xpu_utils.cpu.capabilities import capabilities

q, k, v = (torch.randn(1, 2, 9, 16).bfloat16() for _ in range(3))
outs = [attention(q, k, v, 2, path=path, skip_reshape=True).float() for path in AttentionPath]
assert all(torch.allclose(out, outs[0], atol=0.05) for out in outs)
found = capabilities()
assert set(found.masks) == {"ATEN_CPU_CAPABILITY=avx2", "ONEDNN_MAX_CPU_ISA=AVX2"}
cpu_measure._LENGTHS = cpu_measure._LENGTHS[:1]
plan = cpu_measure.measure_plan(found)
assert plan.precision == "fp32" or plan.speeds[f"gemm {plan.precision}"] > plan.speeds["gemm fp32"]
assert all(rule.precision == "fp32" or onednn.linear_works(torch.bfloat16) for rule in plan.attention)
print("sound")
"""


def test_every_path_works_and_a_plan_is_measured() -> None:
    answer = subprocess.run(
        [sys.executable, "-c", PROBE], cwd=ROOT, env={**os.environ, **MASKS}, capture_output=True, text=True
    )
    assert answer.stdout.strip() == "sound", answer.stderr
