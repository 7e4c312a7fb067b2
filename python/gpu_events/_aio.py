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

    __slots__ = ("__weakref__", "_inbox", "_turns_in_child", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._inbox = Inbox()
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._turns_in_child = 0
        # In a context of its own: the one of the task that happens to be first would be kept for as long as the loop is.
        contextvars.Context().run(loop.add_reader, self._inbox.fileno(), self._deliver, loop)

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

    def _deliver(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            settled = self._inbox.collect()
        except ForkedError as forked:
            self._end_in_child(loop, forked)
            return
        for number, outcome in settled:
            future = self._waiting.pop(number, None)
            if future is not None:
                _settle(future, outcome)

    def _end_in_child(self, loop: asyncio.AbstractEventLoop, forked: ForkedError) -> None:
        """Ends the loop of a parent that a fork's child goes on with.

        The parent is watching too, and what there is to read is for it. Nor can the child watch no more: with epoll the two
        share what is watched. So this comes again in each turn, for as long as the parent has not read, and a loop that goes on
        would spin. First all who wait are told, and have a few turns to end in; then the loop is stopped.
        """
        while self._waiting:
            _settle(self._waiting.popitem()[1], ForkedError(*forked.args))
        if self._turns_in_child == 0:
            loop.call_exception_handler(
                {"message": "gpu-events: a fork's child goes on with its parent's loop, and is stopped", "exception": forked}
            )
        self._turns_in_child += 1
        # And again if the loop is run again, as asyncio.run() does to cancel what is left: that has its turns as well.
        if self._turns_in_child % _TURNS_OF_A_CHILD == 0:
            loop.stop()


_TURNS_OF_A_CHILD = 64
"""What is awaited through a gather() or a task group comes to its end in a handful."""

_channels: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, weakref.ref[_Channel]] = weakref.WeakKeyDictionary()
"""Weak on both sides: a channel's futures know their loop, which could never be collected otherwise."""

_unwatching: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()
"""Loops that refused to watch a socket, and are not asked again: each time would make a pair of sockets first."""


def _channel_of(loop: asyncio.AbstractEventLoop) -> _Channel | None:
    """The loop's channel, opened if need be; None if it takes none."""
    try:
        known = _channels.get(loop)
    except TypeError:
        # Nothing can refer to it weakly.
        return None
    channel = None if known is None else known()
    if channel is None:
        if loop in _unwatching:
            return None
        try:
            channel = _Channel(loop)
        except NotImplementedError:
            # Windows' Proactor.
            _unwatching.add(loop)
            return None
        except OSError:
            # The process may open no more, for now.
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
