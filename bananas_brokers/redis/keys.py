"""Names of keys. Nothing else builds one, but for the scripts, which add to ``prefix``."""

from __future__ import annotations

from bananas_core.errors import ConfigurationError
from bananas_core.job import JobState


class Keys:
    """The keys of one namespace, all with one hash tag and so in one slot of a cluster."""

    def __init__(self, namespace: str) -> None:
        if not namespace or "{" in namespace or "}" in namespace:
            raise ConfigurationError(f"{namespace!r} can't be a namespace on Redis")
        self.prefix = prefix = f"{{{namespace}}}:"
        self.meta = prefix + "meta"
        """Hash: ``schema``, ``shards``, and counters."""
        self.heads = prefix + "heads"
        """Hash: id → header (see ``header.py``)."""
        self.messages = prefix + "messages"
        self.extras = prefix + "extras"
        """Hash: id → what few records have."""
        self.results = prefix + "results"
        """Hash: id → encoded result. Public."""
        self.inbox = prefix + "inbox"
        """List: raw messages of plain clients. Public."""
        self.events = prefix + "events"
        self.made = prefix + "made"
        """Sorted set: ids put together, by the time of it."""
        self.due = prefix + "due"
        self.stale = prefix + "stale"
        """Hash: queue → entries of its ready lists that no longer count."""
        self.sessions = prefix + "sessions"
        self.descriptions = prefix + "descriptions"
        self.later = prefix + "later"
        """Sorted set: ended records that ``prune`` passed over → when it looks again."""
        self.away = prefix + "away"
        """Sorted set: workflows whose records are in another shard while nodes are aside here →
        when their records were last looked for."""
        self.mail = prefix + "mail"
        self.leases = prefix + "leases"
        self.leased = prefix + "leased"
        self.docs = prefix + "docs"
        self.doc_keys = prefix + "doc-keys"
        self.doc_expiries = prefix + "doc-expiries"
        self.job_docs = prefix + "job-docs"
        """Set: jobs with documents under ``job/{id}/``."""
        self.done = prefix + "done"
        """Channel: ids that have ended."""
        self.never = prefix + "never"
        """No such key. Every script names it on a cluster: while a slot moves, a node takes a
        script only if all keys that it names are there, but aborts it halfway at a key that it
        makes up and that is not."""
        self.of_put = (self.heads, self.messages, self.events, self.made, self.due)
        """Those of ``put.lua``."""

    def claims(self, session: str) -> str:
        """Hash: fence → ids claimed together; fence# → how many of them still run."""
        return f"{self.prefix}claims:{session}"

    def lapsed(self, session: str) -> str:
        """Set: jobs charged with a death because the session was silent."""
        return f"{self.prefix}lapsed:{session}"

    def finals(self, state: JobState) -> str:
        """List: when records ended (8 bytes) and their ids, first ended first."""
        return f"{self.prefix}finals:{state.value}"

    def aside(self, workflow: str) -> str:
        """Set: ended nodes that stay until the record of their workflow is gone."""
        return f"{self.prefix}aside:{workflow}"

    def levels(self, queue: str) -> str:
        """Sorted set: priorities of the queue that have something ready."""
        return f"{self.prefix}q:{queue}"

    def ready(self, queue: str, level: int) -> str:
        """List: ids (``id gen`` from the second generation on), and ``@number`` for messages."""
        return f"{self.prefix}q:{queue}:{level}"

    def pending(self, queue: str) -> str:
        """Sorted set: pending records whose messages another transport has, by time."""
        return f"{self.prefix}pend:{queue}"

    def off(self, ticket: str) -> str:
        """Of a wait that was called off: the script behind it takes nothing."""
        return f"{self.prefix}off:{ticket}"

    def wake(self, queue: str) -> str:
        return f"{self.prefix}wake:{queue}"
