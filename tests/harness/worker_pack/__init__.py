"""Nodes for the tests of many workers: one that ends its server, one that takes a time."""

from __future__ import annotations

import os
import time
from typing import Any

from comfy.model_management import throw_exception_if_processing_interrupted
from comfy_api.latest import ComfyExtension, io


class TestEndServer(io.ComfyNode):
    """Hands a picture on, or ends the process as a driver's crash does."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            "TestEndServer", inputs=[io.Image.Input("image"), io.Boolean.Input("now")], outputs=[io.Image.Output()]
        )

    @classmethod
    def execute(cls, image: Any, now: bool) -> io.NodeOutput:
        if now:
            os._exit(134)
        return io.NodeOutput(image)


class TestTakeTime(io.ComfyNode):
    """Hands a picture on after some seconds; twice as many on the second device of a machine."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = [io.Image.Input("image"), io.Float.Input("seconds")]
        return io.Schema("TestTakeTime", inputs=inputs, outputs=[io.Image.Output()])

    @classmethod
    def execute(cls, image: Any, seconds: float) -> io.NodeOutput:
        slower = os.environ.get("ONEAPI_DEVICE_SELECTOR") == "level_zero:1"
        deadline = time.monotonic() + seconds * (2 if slower else 1)
        while (left := deadline - time.monotonic()) > 0:
            throw_exception_if_processing_interrupted()
            time.sleep(min(left, 0.1))
        return io.NodeOutput(image)


class Nodes(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [TestEndServer, TestTakeTime]


async def comfy_entrypoint() -> Nodes:
    return Nodes()
