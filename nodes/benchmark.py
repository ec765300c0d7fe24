"""The node that measures the devices."""

from __future__ import annotations

from comfy_api.latest import io

from ..xpu_utils.bench.compare import as_json, as_table
from ..xpu_utils.bench.measure import measure
from ..xpu_utils.bench.quick import measure_device, measurement_count
from ..xpu_utils.choice import AUTO
from ..xpu_utils.host.inventory import placement_for
from ..xpu_utils.host.memory import free_memory
from ..xpu_utils.host.progress import stepping
from .base import ToolNode, accepted, device_input


class XPUBenchmark(ToolNode):
    """Measures one device: matrix products, convolution, attention by head dim, model steps, copies.

    Unloads all models first, so that the device is free. `json` can be saved and compared with
    `python custom_nodes/xpu-nodes bench --compare BEFORE AFTER`.
    """

    TITLE = "XPU Benchmark"
    ALIASES = ("speed", "performance", "test")

    @classmethod
    def inputs(cls) -> list[io.Input]:
        return [device_input()]

    @classmethod
    def outputs(cls) -> list[io.Output]:
        return [io.String.Output(display_name="table"), io.String.Output(display_name="json")]

    @classmethod
    def validate_inputs(cls, device: object = None) -> bool | str:
        return accepted(device=device)

    @classmethod
    def execute(cls, device: str = AUTO) -> io.NodeOutput:
        free_memory()
        found = placement_for(device, AUTO).device
        measurements = measure_device(found, stepping(measure, measurement_count(found)))
        table = as_table(measurements)
        return io.NodeOutput(table, as_json(measurements), ui={"text": [table]})


NODES = (XPUBenchmark,)
