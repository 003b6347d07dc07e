"""The one place where the client's errors become ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from aio_pika import exceptions

from bananas_core.errors import TransportError, TransportUnavailable

CLIENT: Final = (*exceptions.CONNECTION_EXCEPTIONS, asyncio.InvalidStateError)
"""All that the client raises when a connection or a channel ends under it."""


def translate(error: BaseException, label: str) -> TransportError:
    """Our error for one of the client's."""
    if isinstance(error, TransportError):
        return error
    text = str(error) or type(error).__name__
    if isinstance(error, TimeoutError):
        return TransportUnavailable(f"{label}: no answer in time; try again")
    if isinstance(error, exceptions.ProbableAuthenticationError | exceptions.AuthenticationError):
        return TransportError(f"{label}: the login was refused ({text})")
    if isinstance(error, exceptions.ChannelPreconditionFailed):
        return TransportError(
            f"{label}: {text}; a queue of that name was made in another way: delete it, or choose "
            "another namespace"
        )
    name = type(error).__name__
    if name == "ChannelAccessRefused":
        return TransportError(f"{label}: the user lacks a permission ({text})")
    refused_at_open = isinstance(error, exceptions.InvalidFrameError) and "OpenOk" in text
    if refused_at_open or name == "ConnectionNotAllowed":
        return TransportError(f"{label}: the virtual host is not there, or not for this user")
    return TransportUnavailable(f"{label}: {text}; try again")


@asynccontextmanager
async def answered(label: str, seconds: float) -> AsyncIterator[None]:
    """Give what is inside so long to end, and translate what it raises.

    A connection that ends under a call may cancel it from inside; that is an error like any other,
    unless somebody has really asked for the caller's task to be cancelled.
    """
    task = asyncio.current_task()
    assert task is not None
    before = task.cancelling()
    try:
        async with asyncio.timeout(seconds):
            yield
    except CLIENT as error:
        raise translate(error, label) from error
    except asyncio.CancelledError as error:
        if task.cancelling() > before:
            raise
        raise TransportUnavailable(f"{label}: the connection was lost; try again") from error
