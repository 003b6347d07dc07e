"""What gets pruned: final records by age and count, with their documents.

The record goes first, then its documents, then its index key, by which a later call finds what a
crash left. So the documents of a record that is live again are never touched.

Some records must stay though their time is over: nodes of a live workflow, ends that nobody has
followed up yet. One call passes over so many of them at most, and the next one goes on behind
them, from the beginning again after the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from bananas_core import state
from bananas_core.job import FINAL, Job, JobState, Retention
from bananas_core.keyvalue import keys
from bananas_core.keyvalue.records import Found, Records
from bananas_core.keyvalue.store import Change, Entry

PAGE: Final = 200
PASSED: Final = 1000
"""Records that must stay which one call passes over."""
YOUNGEST: Final = 600.0
AT_ONCE: Final = Retention(completed=0.0, failed=0.0, cancelled=0.0, quarantined=0.0)
"""By count alone: whatever may go at all."""
NEAR: Final = 1000
"""With room for fewer records than this, they are counted in every call."""
FASTEST: Final = 1000.0
"""Jobs a second that no ledger on a key-value store ends: with more room it can wait that long."""


class Pruner:
    """``prune``. Where it stands is no more than a hint, so each client has its own."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._store = records.store
        self._marks: dict[JobState, str] = {}
        """Final state → key behind which the next call goes on."""
        self._place = (0.0, "")
        """The same for the rule by count, in order of all ends."""
        self._roomy = (0, 0.0)
        """Until when records need not be counted, and for which limit that holds."""

    async def prune(self, policy: Retention, limit: int) -> int:
        """L42, L43, L51."""
        now = await self._store.now()
        gone = 0
        for final in sorted(FINAL):
            gone += await self._prune_old(final, policy, limit - gone, now)
        if gone < limit:
            gone += await self._prune_excess(policy.most, limit - gone, now)
        return gone

    async def _prune_old(self, final: JobState, policy: Retention, limit: int, now: float) -> int:
        oldest = now - max(YOUNGEST, getattr(policy, final.value))
        begin = after = self._marks.get(final, "")
        gone = passed = 0
        again = False
        while gone < limit and passed < PASSED:
            entries = await self._store.scan(keys.finals(final), after, PAGE)
            due = [
                entry
                for entry in entries
                if keys.final_parts(entry.key)[0] <= oldest and not (again and entry.key > begin)
            ]
            if due:
                dropped, looked = await self._drop(due, policy, limit - gone, now)
                gone, passed, after = gone + dropped, passed + looked - dropped, due[looked - 1].key
            if len(due) == len(entries) == PAGE or gone >= limit:
                continue
            if again or not begin:
                after = ""
                break
            again, after = True, ""
        self._marks[final] = after
        return gone

    async def _prune_excess(self, most: int, limit: int, now: float) -> int:
        """The oldest that may go, for as many as there are over ``most``. All index keys are
        counted, unless there is so much room that it can't be used up yet."""
        if self._roomy[0] == most and now < self._roomy[1]:
            return 0
        count, found = await self._oldest(limit + PASSED, now - YOUNGEST)
        room = most - count
        if room >= 0:
            self._roomy = (most, now + room / FASTEST if room > NEAR else 0.0)
            return 0
        found.sort(key=_place)
        over, gone, passed, begin = min(limit, -room), 0, 0, 0
        while gone < over and passed < PASSED and begin < len(found):
            dropped, looked = await self._drop(
                found[begin : begin + PAGE], AT_ONCE, over - gone, now
            )
            gone, passed, begin = gone + dropped, passed + looked - dropped, begin + looked
        self._place = _place(found[begin - 1]) if passed >= PASSED else (0.0, "")
        return gone

    async def _oldest(self, limit: int, before: float) -> tuple[int, list[Entry]]:
        """How many final records there are, and of each kind the oldest ``limit`` that ended
        ``before``, from where the last call stopped."""
        count, found = 0, []
        for final in sorted(FINAL):
            after, taken = "", 0
            while entries := await self._store.scan(keys.finals(final), after, PAGE):
                after = entries[-1].key
                count += len(entries)
                for entry in entries:
                    place = _place(entry)
                    if taken < limit and place > self._place and place[0] <= before:
                        found.append(entry)
                        taken += 1
        return count, found

    async def _drop(
        self, entries: Sequence[Entry], policy: Retention, limit: int, now: float
    ) -> tuple[int, int]:
        """Delete those that may go, and index keys of records that have moved on.

        Returns:
            How many records went, ``limit`` at most, and how many of ``entries`` are through.
        """
        ids = [keys.final_parts(entry.key)[1] for entry in entries]
        records = await self._records.read(ids)
        wholes = await self._wholes(records)
        going: list[tuple[Entry, Found]] = []
        moved: list[tuple[Entry, Found]] = []
        absent: list[Entry] = []
        looked = 0
        for entry, found in zip(entries, records, strict=True):
            if len(going) >= limit:
                break
            looked += 1
            if found is None:
                absent.append(entry)
            elif keys.final_of(found.job) != entry.key:
                moved.append((entry, found))
            elif state.prunable(found.job, now, policy, wholes.get(found.job.workflow or "")):
                going.append((entry, found))
        gone = await self._delete([found for _, found in going])
        through = absent + [entry for entry, found in going if found.job.id in gone]
        for entry in through:
            await self._drop_docs(keys.final_parts(entry.key)[1])
        # Who wrote the key of a record that has moved on may still be on the way to that record.
        kept = await self._records.touch(list({f.job.id: f for _, f in moved}.values()))
        through += [entry for entry, found in moved if found.job.id not in kept]
        if through:
            await self._store.write(
                [Change(key=entry.key, value=None, version=entry.version) for entry in through]
            )
        return len(gone), looked

    async def _wholes(self, records: Sequence[Found | None]) -> dict[str, Job]:
        """The records of their workflows, by id."""
        ids = {one.job.workflow for one in records if one is not None and one.job.workflow}
        found = await self._records.get(sorted(ids)) if ids else []
        return {job.id: job for job in found if job is not None}

    async def _delete(self, records: Sequence[Found]) -> set[str]:
        """Delete records that are still as they were; the ids of those that are gone."""
        if not records:
            return set()
        answers = await self._store.write(
            [Change(key=one.entry.key, value=None, version=one.entry.version) for one in records]
        )
        return {
            one.job.id for one, version in zip(records, answers, strict=True) if version is not None
        }

    async def _drop_docs(self, id: str) -> None:
        prefix = keys.doc(f"job/{id}/")
        while entries := await self._store.scan(prefix, "", PAGE):
            await self._store.write([Change(key=entry.key, value=None) for entry in entries])


def _place(entry: Entry) -> tuple[float, str]:
    return keys.final_parts(entry.key)[0], entry.key
