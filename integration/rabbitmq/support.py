"""Pairs with RabbitMQ, a plain client beside them, and short words."""

from __future__ import annotations

import os

import pika
import pytest

from bananas_brokers.rabbitmq.transport import LEASE, RabbitTransport
from bananas_brokers.sqlite.results import SQLiteResultBackend
from bananas_core.pair import Pair
from integration.servers import RabbitServer

full = pytest.mark.skipif(os.environ.get("FAULTS_LEVEL") != "full", reason="level full: it is slow")


def plain(server: RabbitServer) -> pika.BlockingConnection:
    """A connection of another client, for looking and for doing harm."""
    return pika.BlockingConnection(pika.URLParameters(server.url))


def queues_in(server: RabbitServer, namespace: str) -> list[str]:
    """The queues of a namespace."""
    return [name for name in server.queues() if name.startswith(f"{namespace}/")]


def pair_on(url: str, ledger_url: str, namespace: str, *, lease: float = LEASE) -> Pair:
    """With leases that may be shorter, for tests that wait for their end."""
    ledger = SQLiteResultBackend(ledger_url, namespace)
    return Pair(RabbitTransport(url, namespace, lease=lease), ledger)
