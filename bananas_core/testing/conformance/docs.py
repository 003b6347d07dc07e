"""Topic: small versioned documents."""

from __future__ import annotations

import asyncio

from bananas_core.job import Write
from bananas_core.testing.conformance.harness import Harness
from bananas_core.testing.conformance.marks import promise, takes
from bananas_core.testing.conformance.support import Suite


class Documents(Suite):
    @promise("L38")
    async def test_a_write_applies_only_to_its_version(self, harness: Harness) -> None:
        one, two = await harness.backend(), await harness.backend()
        (made,) = await one.cas([Write(key="k", value=b"1", version=0)])
        assert made.done
        assert made.doc is not None
        (again,) = await two.cas([Write(key="k", value=b"2", version=0)])
        assert (again.done, again.doc) == (False, made.doc)
        (wrong,) = await two.cas([Write(key="k", value=b"2", version=made.doc.version + 1)])
        assert (wrong.done, wrong.doc) == (False, made.doc)
        (right,) = await two.cas([Write(key="k", value=b"2", version=made.doc.version)])
        assert right.done
        (blind,) = await one.cas([Write(key="k", value=b"3")])
        assert blind.done
        assert [doc.value for doc in await two.docs("k")] == [b"3"]

    @promise("L38", "L39")
    async def test_a_delete_obeys_its_version_too(self, harness: Harness) -> None:
        backend = await harness.backend()
        (made,) = await backend.cas([Write(key="k", value=b"1")])
        assert made.doc is not None
        (wrong,) = await backend.cas([Write(key="k", value=None, version=made.doc.version + 1)])
        assert (wrong.done, wrong.doc) == (False, made.doc)
        (gone,) = await backend.cas([Write(key="k", value=None, version=made.doc.version)])
        assert (gone.done, gone.doc) == (True, None)
        (none,) = await backend.cas([Write(key="k", value=b"2", version=made.doc.version)])
        assert (none.done, none.doc) == (False, None)
        (anew,) = await backend.cas([Write(key="k", value=b"2", version=0)])
        assert anew.doc is not None
        assert anew.doc.version != made.doc.version

    @promise("L39")
    async def test_versions_never_repeat(self, harness: Harness) -> None:
        backend, versions = await harness.backend(), []
        for _ in range(4):
            for value in (b"a", b"a", b"b"):
                (answer,) = await backend.cas([Write(key="k", value=value)])
                assert answer.doc is not None
                versions.append(answer.doc.version)
            await backend.cas([Write(key="k", value=None)])
        assert len(versions) == len(set(versions))
        assert 0 not in versions

    @promise("L38", "L4")
    async def test_of_racing_writes_one_applies(self, harness: Harness) -> None:
        backends = [await harness.backend() for _ in range(3)]
        for round_ in range(5):
            writes = [
                Write(key=f"k{round_}", value=str(n).encode(), version=0)
                for n in range(harness.limits.racers)
            ]
            answers = await asyncio.gather(
                *(backends[n % 3].cas([write]) for n, write in enumerate(writes))
            )
            winners = [w.value for w, (a,) in zip(writes, answers, strict=True) if a.done]
            assert len(winners) == 1
            (doc,) = await backends[0].docs(f"k{round_}")
            assert doc.value == winners[0]

    @promise("L38")
    async def test_one_refused_write_does_not_spoil_a_batch(self, harness: Harness) -> None:
        backend = await harness.backend()
        await backend.cas([Write(key="b", value=b"0")])
        answers = await backend.cas(
            [Write(key=key, value=b"1", version=0) for key in ("a", "b", "c")]
        )
        assert [answer.done for answer in answers] == [True, False, True]
        assert [doc.value for doc in await backend.docs("")] == [b"1", b"0", b"1"]

    @promise("L38")
    @takes(4)
    async def test_an_expired_document_is_absent(self, harness: Harness) -> None:
        backend = await harness.backend()
        await backend.cas([Write(key="k", value=b"1", ttl=2.0), Write(key="stays", value=b"2")])
        assert [doc.key for doc in await backend.docs("")] == ["k", "stays"]
        await harness.advance(2.5 + harness.capabilities.ledger.clock_error)
        assert [doc.key for doc in await backend.docs("")] == ["stays"]
        (anew,) = await backend.cas([Write(key="k", value=b"3", version=0)])
        assert anew.done

    @promise("L40")
    async def test_documents_are_listed_in_key_order(self, harness: Harness) -> None:
        backend = await harness.backend()
        keys = ["a/2", "a/10", "a/1", "a", "b/1", "a0", "A/1", "a/é", "a/~"]
        await backend.cas([Write(key=key, value=key.encode()) for key in keys])
        wanted = sorted(key for key in keys if key.startswith("a/"))
        assert [doc.key for doc in await backend.docs("a/")] == wanted
        assert [doc.key for doc in await backend.docs("")] == sorted(keys)
        pages: list[str] = []
        after = ""
        while page := await backend.docs("a/", after=after, limit=2):
            assert len(page) <= 2
            pages += [doc.key for doc in page]
            after = page[-1].key
        assert pages == wanted
        assert await backend.docs("nothing/") == []

    @promise("L50")
    async def test_documents_are_read_in_the_order_of_keys(self, harness: Harness) -> None:
        one, two = await harness.backend(), await harness.backend()
        keys = ["job/b/1", "job/a/2", "job/a/10", "c", "é"]
        answers = await one.cas([Write(key=key, value=key.encode()) for key in keys])
        wanted = ["é", "nobody", "job/a/2", "job/b/1", "job/a/2", "c", "job/a", "job/a/10"]
        found = await two.get_docs(wanted)
        assert [doc and doc.key for doc in found] == [k if k in keys else None for k in wanted]
        assert [doc for doc in found if doc and doc.value != doc.key.encode()] == []
        made = {answer.doc.key: answer.doc for answer in answers if answer.doc is not None}
        assert [made.get(key) for key in wanted] == found
        assert await two.get_docs([]) == []

    @promise("L50")
    async def test_a_read_sees_every_confirmed_write(self, harness: Harness) -> None:
        backends = [await harness.backend() for _ in range(3)]
        for turn in range(9):
            writer, reader = backends[turn % 3], backends[(turn + turn // 3) % 3]
            (answer,) = await writer.cas([Write(key="k", value=str(turn).encode())])
            assert await reader.get_docs(["k"]) == [answer.doc]
        await backends[0].cas([Write(key="k", value=None)])
        assert await backends[1].get_docs(["k", "k"]) == [None, None]

    @promise("L50")
    async def test_many_documents_are_read_at_once(self, harness: Harness) -> None:
        backend = await harness.backend()
        keys = [f"job/w/{n}" for n in range(300)]
        await backend.cas([Write(key=key, value=bytes(128)) for key in keys])
        found = await backend.get_docs([*reversed(keys), "job/w/300"])
        assert [doc and doc.key for doc in found] == [*reversed(keys), None]

    @promise("L50", "L38")
    @takes(4)
    async def test_an_expired_document_is_not_read(self, harness: Harness) -> None:
        backend = await harness.backend()
        await backend.cas([Write(key="k", value=b"1", ttl=2.0), Write(key="stays", value=b"2")])
        assert None not in await backend.get_docs(["k", "stays"])
        await harness.advance(2.5 + harness.capabilities.ledger.clock_error)
        assert [doc and doc.key for doc in await backend.get_docs(["k", "stays"])] == [
            None,
            "stays",
        ]
