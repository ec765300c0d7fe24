"""Ray: one started here or one that runs, the devices of its machines, and a worker on each."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import socket
from types import ModuleType
from typing import Any

from .setup import PACK, CannotStart, Setup
from .worker import Worker

NAMESPACE = "xpu-nodes"
OPEN_VARIABLE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Where it is 0 when Ray is imported, whatever the system, Ray's processes listen on 127.0.0.1 only."""
MEMORY_VARIABLE = "RAY_memory_monitor_refresh_ms"
"""Where it is not 0, Ray ends workers once 95 % of the machine's memory is used; ComfyUI would drop models."""
REACH_SECONDS = 10.0
STOP_SECONDS = 20.0
OBJECT_STORE_BYTES = 512 << 20
"""Of a cluster that is started here: input files and results on their way."""
# Ray hides all GPUs from an actor that asks for none of them; a worker leaves its ComfyUI one by itself.
_ENVIRONMENT = {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


class NoRay(Exception):
    """Ray cannot be used; one sentence."""


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a worker can be: a device of a machine."""

    node_id: str
    """Ray's."""
    host: str
    device: str

    def __str__(self) -> str:
        return f"{self.device} of {self.host}"


def imported_ray(address: str = "") -> ModuleType:
    """Ray, which is only needed for this, for the cluster at an address or for one that only this machine reaches.

    Raises:
        NoRay: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not address:
        os.environ[OPEN_VARIABLE] = "0"
    try:
        import ray
    except ImportError as error:
        raise NoRay(f"Many workers need Ray, which cannot be imported ({error}): pip install 'ray>=2.60'.") from error
    return ray


def connect(address: str = "") -> ModuleType:
    """Connects this process to the cluster at an address, or starts one here that only this machine reaches.

    Raises:
        NoRay: it is not installed, or no cluster answers there.
    """
    ray = imported_ray(address)
    _check_that_it_listens(address)
    options: dict[str, Any] = {"address": address} if address else _of_its_own()
    if not address:  # what is set here for a cluster of others, their machines' `ray start` has been told
        os.environ.setdefault(MEMORY_VARIABLE, "0")
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(PACK), os.environ.get("PYTHONPATH"))))
    try:
        ray.init(
            namespace=NAMESPACE,
            log_to_driver=False,
            logging_level="error",
            runtime_env={"env_vars": _ENVIRONMENT},
            **options,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise NoRay(f"No Ray cluster could be used at {address or 'this machine'}: {error}") from error
    return ray


def _check_that_it_listens(address: str) -> None:
    """Ray waits for minutes at an address where nothing is.

    Raises:
        NoRay: nothing listens at a host and port.
    """
    host, _, port = address.rpartition(":")
    if "/" in host or not (host and port.isdigit()):  # "auto", "ray://..."
        return
    try:
        socket.create_connection((host, int(port)), REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise NoRay(f"No Ray cluster could be used at {address}: {error}") from error


def _of_its_own() -> dict[str, Any]:
    return {"address": "local", "include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}


def machines(ray: ModuleType) -> dict[str, str]:
    """Ray's id of each machine of the cluster that lives -> its name."""
    return {node["NodeID"]: node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}


def ask_devices(ray: ModuleType, node_id: str) -> Any:
    """Ray's reference to the ids of a machine's devices: accelerators, else the CPU. A process there looks."""
    return _on(ray, node_id, ray.remote(_devices)).remote()


def _devices() -> list[str]:
    from ..machine.devices import find_devices

    inventory = find_devices()
    return [device.id for device in inventory.accelerators or inventory.devices]


def _on(ray: ModuleType, node_id: str, what: Any, **options: Any) -> Any:
    """A task or an actor on that machine only."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return what.options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False), **options)


def start_worker(ray: ModuleType, place: Place, setup: Setup) -> Any:
    """An actor that is a `Worker` on a device; it ends with this process, and with it its ComfyUI.

    Raises:
        CannotStart: the device has one already, of another batch.
    """
    actor = _on(ray, place.node_id, ray.remote(Worker), name=f"{place.node_id}/{place.device}", max_concurrency=4)
    try:
        return actor.remote(setup, place.device)
    except ValueError as error:  # the name is taken
        raise CannotStart(f"{place} has a worker of another command: wait for its end, or stop it.") from error


async def end_worker(ray: ModuleType, actor: Any) -> None:
    """Ends a worker, in order where it still answers."""
    with contextlib.suppress(ray.exceptions.RayError, asyncio.TimeoutError):
        await asyncio.wait_for(_answer(actor.stop.remote()), STOP_SECONDS)
    ray.kill(actor)


async def _answer(reference: Any) -> Any:
    return await reference


def in_its_words(error: BaseException) -> str:
    """An error of a worker's without the trace that Ray puts before it, and without Ray's pages of advice after it."""
    own = getattr(error, "cause", None) or error
    text = str(own) or type(own).__name__
    return text if isinstance(own, CannotStart) else text.partition("\n")[0]
