"""Pairs with RabbitMQ, a plain client beside them, and short words."""

from __future__ import annotations

import pika

from bananas_core.pair import Pair, load_pair
from integration.servers import RabbitServer


def plain(server: RabbitServer) -> pika.BlockingConnection:
    """A connection of another client, for looking and for doing harm."""
    return pika.BlockingConnection(pika.URLParameters(server.url))


def queues_in(server: RabbitServer, namespace: str) -> list[str]:
    """The queues of a namespace."""
    names = server.ctl("list_queues", "name", "--silent").split()
    return sorted(name for name in names if name.startswith(f"{namespace}/"))


def delete_queues(server: RabbitServer, namespace: str) -> None:
    """Delete the queues of a namespace."""
    names = queues_in(server, namespace)
    with plain(server) as connection:
        channel = connection.channel()
        for name in names:
            channel.queue_delete(name)


def pair_on(server: RabbitServer, ledger_url: str, namespace: str) -> Pair:
    return load_pair(server.url, ledger_url, namespace)
