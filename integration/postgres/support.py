"""Pairs on a server, and short words."""

from __future__ import annotations

from typing import Any

import psycopg

from bananas_brokers.postgres.results import PostgresResultBackend
from bananas_brokers.postgres.transport import PostgresTransport
from bananas_core.clock import Clock
from bananas_core.errors import ResultBackendUnavailable, TransportUnavailable
from bananas_core.job import Outcome, OutcomeKind
from bananas_core.pair import Pair
from bananas_core.testing.conformance.harness import eventually
from bananas_core.transport import Received
from integration.servers import PostgresServer

QUEUE = "default"


def client_of(server: PostgresServer) -> psycopg.Connection[Any]:
    """A plain blocking client, for looking and for doing harm."""
    return psycopg.connect(server.url.partition("?")[0], autocommit=True)


def pair_on(url: str, namespace: str, clock: Clock | None = None) -> Pair:
    return Pair(
        PostgresTransport(url, namespace, clock=clock),
        PostgresResultBackend(url, namespace, clock=clock),
    )


async def received(pair: Pair, session: str, limit: int = 10, timeout: float = 0.0) -> list[Any]:
    """Claims of one fused receive."""
    found: list[Received] = await pair.transport.receive_claimed(session, [QUEUE], limit, timeout)
    return [item.verdict.claim for item in found if item.verdict is not None]


def succeed(claim: Any, result: bytes | None = b"1") -> Outcome:
    return Outcome(
        id=claim.id, fence=claim.fence, kind=OutcomeKind.COMPLETED, result=result, ran=0.1
    )


async def again(call: Any, deadline: float = 15.0) -> Any:
    """Repeat a call until the outcome is known; at least once it may be unknown."""
    answer: list[Any] = []

    async def tried() -> bool:
        try:
            answer.append(await call())
        except (ResultBackendUnavailable, TransportUnavailable):
            return False
        return True

    await eventually(tried, deadline)
    return answer[0]
