"""Eight processes on one manifest cache, half of them killed: `python -m ... DIR TURNS`.

It ends with 1 when a survivor met anything but whole content, or a lock that nobody gives back.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from pathlib import Path

from dagster_dbtcloud.dbt.manifest import Manifest
from dagster_dbtcloud.state import ManifestCache, ManifestPointer, WorkspaceIds
from dagster_dbtcloud_tests.dbt.builders import manifest_of, node

PROCESSES = 8
KILLED = 4
IDS = WorkspaceIds("https://ab123.us1.dbt.com", 70403103900000, 11, 21)


def made(number: int) -> Manifest:
    """Return a manifest of some hundred kB that does not compress: a write takes a while."""
    chance = random.Random(number)  # noqa: S311 - content, not secrets
    whole = manifest_of(
        *(node(f"model.shop.m{n}", raw_code=chance.randbytes(1_500).hex()) for n in range(200))
    )
    packed = Manifest.from_packed(whole.packed, origin="made")
    assert packed is not None
    return packed


def write_and_read(cache: ManifestCache, manifests: list[Manifest], turns: int, pipe: int) -> bool:
    for _ in range(turns):
        mine = random.choice(manifests)  # noqa: S311
        with cache.locked("key"):
            cache.write(mine)
            cache.set_last_good("key", ManifestPointer(IDS, 1, None, mine.digest))
        last = cache.last_good("key")
        if last is None or cache.read(last.digest, origin="the cache") is None:
            return False
        os.write(pipe, b".")
    return True


def main(root: str, turns: str) -> int:
    cache, manifests = ManifestCache(Path(root)), [made(number) for number in range(3)]
    reading, writing = os.pipe()
    children = []
    for number in range(PROCESSES):
        child = os.fork()
        if child == 0:
            random.seed(number)
            # Those that are to be killed go on until they are.
            count = sys.maxsize if number < KILLED else int(turns)
            os._exit(not write_and_read(cache, manifests, count, writing))
        children.append(child)
    for child in children[:KILLED]:
        os.read(reading, PROCESSES)  # some have made a turn since the last one was killed
        os.kill(child, signal.SIGKILL)
    ends = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    signal.alarm(30)  # ends this process if a dead one still holds the lock
    with cache.locked("key"):
        whole = [cache.read(m.digest, origin="the cache") is not None for m in manifests]
    good = ends == [-signal.SIGKILL] * KILLED + [0] * (PROCESSES - KILLED)
    sys.stdout.write(f"{ends} {whole}\n")
    return 0 if good and any(whole) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
