"""A submitter process: submits short jobs for some seconds and prints the accepted ids."""

from __future__ import annotations

import asyncio
import sys
import time

from bananas import Bananas


async def main(url: str, seconds: float) -> None:
    end = time.monotonic() + seconds
    async with Bananas(url) as app:
        number = 0
        while time.monotonic() < end:
            jobs = await asyncio.gather(
                *(app.submit_job("quick", {"number": number + n}) for n in range(20))
            )
            number += 20
            print("\n".join(job.id for job in jobs), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2])))
