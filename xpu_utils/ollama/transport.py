"""An HTTP transport that refuses to read without end.

The official client collects a line until its newline comes; a broken server could fill the memory.
Apart from :mod:`.ollama` because ``httpx`` comes with the optional ``ollama`` package.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx


class AnswerTooLarge(Exception):
    """The body of an answer went past the limit."""


class BoundedTransport(httpx.AsyncHTTPTransport):
    """Ordinary transport whose responses end in :class:`AnswerTooLarge` after ``limit_bytes``."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__()
        self._limit_bytes = limit_bytes

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
        # What httpx's own asynchronous transport returns is always an asynchronous stream.
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = _BoundedStream(response.stream, self._limit_bytes)
        return response


class _BoundedStream(httpx.AsyncByteStream):
    def __init__(self, stream: httpx.AsyncByteStream, limit_bytes: int) -> None:
        self._stream = stream
        self._left_bytes = limit_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            self._left_bytes -= len(chunk)
            if self._left_bytes < 0:
                raise AnswerTooLarge
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()
