"""Awaiting an event under asyncio."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import weakref
from typing import TYPE_CHECKING, Any

from ._errors import ForkedError
from ._native import Event, Inbox

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ._errors import Error


def wait(event: Event) -> Iterator[Any]:
    """What `await event` iterates over, for an event that is pending."""
    loop = asyncio.get_running_loop()
    channel = _channel_of(loop)
    return _wait_by_callback(loop, event) if channel is None else channel.wait(loop, event)


class _Channel:
    """The way of completions to one loop, on whose thread all of this runs. The loop keeps it, as what watches the inbox."""

    __slots__ = ("__weakref__", "_inbox", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._inbox = Inbox()
        self._waiting: dict[int, asyncio.Future[None]] = {}
        # In a context of its own: the one of the task that happens to be first would be kept for as long as the loop is.
        contextvars.Context().run(loop.add_reader, self._inbox.fileno(), self._deliver)

    def wait(self, loop: asyncio.AbstractEventLoop, event: Event) -> Iterator[Any]:
        number = self._inbox.expect(event)
        if number is None:
            return iter(())
        future: asyncio.Future[None] = loop.create_future()
        self._waiting[number] = future
        # Also when the task that waits is cancelled, or its wait_for times out.
        future.add_done_callback(functools.partial(self._take_back, number))
        return future.__await__()

    def _take_back(self, number: int, _: object) -> None:
        if self._waiting.pop(number, None) is not None:
            self._inbox.forget(number)

    def _deliver(self) -> None:
        try:
            settled = self._inbox.collect()
        except ForkedError as forked:
            # A child that goes on with its parent's loop. The parent is watching too, and what there is to read is for it.
            while self._waiting:
                _settle(self._waiting.popitem()[1], ForkedError(*forked.args))
            return
        for number, outcome in settled:
            future = self._waiting.pop(number, None)
            if future is not None:
                _settle(future, outcome)


_channels: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, weakref.ref[_Channel]] = weakref.WeakKeyDictionary()
"""Weak on both sides: a channel's futures know their loop, which could never be collected otherwise."""


def _channel_of(loop: asyncio.AbstractEventLoop) -> _Channel | None:
    """The loop's channel, opened if need be; None if it takes none."""
    try:
        known = _channels.get(loop)
    except TypeError:
        # Nothing can refer to it weakly.
        return None
    channel = None if known is None else known()
    if channel is None:
        try:
            channel = _Channel(loop)
        except (NotImplementedError, OSError):
            # The loop watches no sockets (Windows' Proactor), or the process may open no more.
            return None
        _channels[loop] = weakref.ref(channel)
    return channel


def _wait_by_callback(loop: asyncio.AbstractEventLoop, event: Event) -> Iterator[Any]:
    """By the device's callback thread, which has to wait for the GIL, and more than once."""
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
