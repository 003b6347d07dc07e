"""What of the server a user should know."""

from __future__ import annotations

from importlib.metadata import version
from typing import Final

from bananas_brokers.postgres.connect import Facts
from bananas_brokers.postgres.settings import Settings

_REMOTE: Final = ("on", "remote_apply", "remote_write")


def versions_of(facts: Facts) -> dict[str, str]:
    """Of the client library, and of the server as it was when it was last looked at."""
    return {
        "client": f"asyncpg {version('asyncpg')}",
        "server": f"PostgreSQL {facts.version_name}",
    }


def warnings_of(facts: Facts, settings: Settings) -> list[str]:
    """For ``doctor``: what may lose jobs or tell them to others, and what to set."""
    found = []
    if facts.fsync != "on":
        found.append(
            "fsync is off: a crash of the machine can destroy the whole database; set it to on"
        )
    if facts.full_page_writes != "on":
        found.append(
            "full_page_writes is off: a crash of the machine can leave damaged pages; set it to "
            "on, unless the file system writes pages as a whole"
        )
    if not settings.durable:
        found.append("durable=false: a crash of the server can lose the last confirmed writes")
    elif facts.synchronous_commit == "off":
        found.append(
            "synchronous_commit is off for this user or database; Bananas turns it on for its own "
            "transactions, but jobs put by tx= in yours are as durable as yours"
        )
    if not facts.standbys:
        found.append(
            "no synchronous standby: a fail-over loses what the standby had not got yet (see "
            "synchronous_standby_names)"
        )
    elif facts.synchronous_commit not in _REMOTE:
        found.append(
            f"synchronous_commit is {facts.synchronous_commit}: commits don't wait for the "
            "synchronous standby, so that a fail-over loses the last ones"
        )
    if facts.pooled:
        found.append(
            "a pooler is between (or pooler=true): each statement is a transaction of several "
            "trips, and workers poll up to 4 times a second; a direct connection is quicker"
        )
    if not facts.tls and not settings.local:
        found.append("the connection is not encrypted; set sslmode=verify-full")
    elif facts.tls and settings.sslmode == "prefer" and not settings.local:
        found.append(
            "the server's certificate is not checked (sslmode=prefer); set sslmode=verify-full"
        )
    return found
