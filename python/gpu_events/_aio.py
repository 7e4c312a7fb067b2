"""Awaiting an event under asyncio."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ._native import Event

if TYPE_CHECKING:
    from collections.abc import Generator

    from ._errors import Error


def wait(event: Event) -> Generator[object, None, None]:
    """What `await event` iterates over, for an event that is pending."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def complete(error: Error | None) -> None:
        try:
            loop.call_soon_threadsafe(_settle, future, error)
        except RuntimeError:
            # The loop was closed, and nobody is left to be told.
            if not loop.is_closed():
                raise

    # Whatever a subclass has made of its own.
    callback = Event.on_complete(event, complete)

    def take_back(_: object) -> None:
        callback.cancel()

    # Also when the task that waits is cancelled, or its wait_for times out.
    future.add_done_callback(take_back)
    return future.__await__()


def _settle(future: asyncio.Future[None], error: Error | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
