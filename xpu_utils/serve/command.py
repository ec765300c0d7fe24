"""The command: connects to a cluster, and answers at an address until it is stopped."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path
from types import ModuleType

from aiohttp import log as web_log
from aiohttp import web

from ..workers.cluster import NoRay, connect, imported_ray
from ..workers.folder import FolderTaken, alone_in
from ..workers.setup import Setup, devices_of
from .access import TOKEN_CHARACTERS, is_loopback, is_of_the_server
from .clients import Clients
from .gateway import Gateway
from .journal import Journal
from .pool import Pool
from .routes import Routes
from .store import Store

TOKEN_VARIABLE = "XPU_SERVE_TOKEN"


class CannotServe(Exception):
    """The address cannot be had; one sentence."""


def run(arguments: argparse.Namespace) -> tuple[int, str]:
    """Serves until it is interrupted. Exit code 2: it cannot begin."""
    with contextlib.ExitStack() as held:
        try:
            token = _token(arguments.listen, arguments.token_file)
            if arguments.least < 1 or (arguments.most and arguments.most < arguments.least):
                raise CannotServe("--least must be 1 or more, and --most not below it.")
            imported_ray(arguments.address)  # what locks the folder comes with it
            held.enter_context(alone_in(arguments.out))
            store, journal = Store(arguments.out), Journal(arguments.out / "queue", _say)
        except OSError as error:
            return 2, f"serve: {arguments.out} cannot be used: {error.strerror}."
        except (CannotServe, FolderTaken, NoRay) as error:
            return 2, f"serve: {error}"
        return _run(arguments, store, journal, token)


def _run(arguments: argparse.Namespace, store: Store, journal: Journal, token: str) -> tuple[int, str]:
    try:
        ray = connect(arguments.address)
    except NoRay as error:
        return 2, f"serve: {error}"
    try:
        asyncio.run(_serve(arguments, ray, store, journal, token))
    except CannotServe as error:
        return 2, f"serve: {error}"
    except KeyboardInterrupt:
        pass
    finally:
        ray.shutdown()
    return 0, "serve: stopped."


def _token(host: str, file: Path | None) -> str:
    where = str(file or TOKEN_VARIABLE)
    try:
        token = (file.read_text(encoding="utf-8") if file else os.environ.get(TOKEN_VARIABLE, "")).strip()
    except (OSError, UnicodeError) as error:
        raise CannotServe(f"The token in {where} cannot be read: {error}.") from error
    if not token and not is_loopback(host):
        raise CannotServe(f"{host} is reached from other machines: set a token in {where}.")
    if (token or file) and len(token) < TOKEN_CHARACTERS:
        raise CannotServe(f"The token in {where} is short, it needs {TOKEN_CHARACTERS} characters or more.")
    return token


async def _serve(arguments: argparse.Namespace, ray: ModuleType, store: Store, journal: Journal, token: str) -> None:
    setup = Setup.of(arguments.comfyui, arguments.models)
    pool = Pool(
        ray,
        setup,
        _say,
        least=arguments.least,
        most=arguments.most,
        idle_seconds=arguments.idle,
        devices=devices_of(arguments.devices),
        silence_seconds=arguments.silence,
    )
    clients = Clients()
    gateway = Gateway(ray, pool, store, clients, journal, _say)
    routes = Routes(gateway, pool, store, clients, upload_bytes=arguments.upload_mib << 20)
    runner = web.AppRunner(routes.application(token), access_log=None, shutdown_timeout=1)
    await runner.setup()
    web_log.server_logger.addFilter(is_of_the_server)
    try:
        await _listen(runner, arguments.listen, arguments.port)
        if count := gateway.take_up():
            _say(f"{count} prompts of before are queued again.")
        _say(f"serving at http://{arguments.listen}:{arguments.port}, results in {arguments.out}.")
        await until_stopped(pool, gateway)
    finally:
        await runner.cleanup()


async def _listen(runner: web.AppRunner, host: str, port: int) -> None:
    try:
        await web.TCPSite(runner, host, port).start()
    except (OSError, OverflowError) as error:  # the latter: no such port
        reason = error.strerror if isinstance(error, OSError) else error
        raise CannotServe(f"{host}:{port} cannot be listened on: {reason}.") from error


async def until_stopped(pool: Pool, gateway: Gateway) -> None:
    """Keeps the workers until a signal ends it; the prompts that run then are not held responsible for their ends."""
    keeping = asyncio.create_task(pool.keep())

    def stop() -> None:
        gateway.stop()
        keeping.cancel()

    with contextlib.suppress(NotImplementedError):  # on Windows, where Ctrl-C cancels this
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name)
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
                asyncio.get_running_loop().add_signal_handler(number, stop)
    try:
        await asyncio.shield(keeping)  # else it would be cancelled before it is stopped
    except asyncio.CancelledError:  # asked to stop
        return
    finally:
        stop()
        with contextlib.suppress(asyncio.CancelledError):
            await keeping


def _say(line: str) -> None:
    sys.stderr.write(f"serve: {line}\n")
