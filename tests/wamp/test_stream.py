"""Streams without a network: whatever is missed, each sample comes once and in order."""

import asyncio
from random import Random
from typing import Any

import pytest

from hcam_devices.errors import OutcomeUnknownError
from hcam_devices.wamp.stream import Sample, Stream

from ..conftest import Scaled

DEVICES = ("one", "two")


def sample(seq: int | None, epoch: str = "a", device: str = "one") -> Sample:
    return {"device": device, "epoch": epoch, "seq": seq, "timestamp": None if seq is None else "t"}


def numbers(samples: list[Sample]) -> list[Any]:
    return [(one["epoch"], one["seq"]) for one in samples]


class Server:
    """The journals of devices, and what is heard of them. ``epochs`` are those of all."""

    def __init__(self, seed: int = 0) -> None:
        self.random = Random(seed)
        self.kept: dict[str, list[Sample]] = {device: [] for device in DEVICES}
        self.order = ["a"]
        self.streams: list[Stream] = []
        self.answers, self.heard = True, True
        self.pages = 0

    async def page(self, device: str, after: int, limit: int, epoch: str) -> list[Sample]:
        self.pages += 1
        there = [s for s in self.kept[device] if s["epoch"] == epoch and s["seq"] > after]
        await self._answer()
        return there[:limit]

    async def epochs(self, device: str) -> list[str]:
        order = list(self.order)
        await self._answer()
        return order

    async def _answer(self) -> None:
        """Answer after some turns of the loop, in which more may be published."""
        for _ in range(self.random.randrange(5)):
            await asyncio.sleep(0)
        if not self.answers:
            raise OutcomeUnknownError("frozen")

    def publish(self, device: str = "one") -> None:
        kept, epoch = self.kept[device], self.order[-1]
        seq = 1 + sum(one["epoch"] == epoch for one in kept)
        kept.append(sample(seq, epoch, device))
        if self.heard:
            self.say(kept[-1])

    def say(self, heard: Sample) -> None:
        for stream in self.streams:
            stream.hear(heard)

    def stream(self, size: int = 1000) -> Stream:
        self.streams.append(Stream(self, size=size))
        return self.streams[-1]


async def all_of(stream: Stream) -> list[Sample]:
    """Return what comes until nothing has come for many turns of the loop."""
    found: list[Sample] = []
    idle = 0
    while idle < 100:
        await asyncio.sleep(0)
        idle = 0 if stream.waiting else idle + 1
        if stream.waiting:
            found += await stream.take()
    return found


async def test_what_is_heard_in_order_is_passed_on_without_a_question() -> None:
    server = Server()
    stream = server.stream()
    for _ in range(5):
        server.publish()
    server.say(sample(None))
    assert numbers(await stream.take()) == [("a", n) for n in (1, 2, 3, 4, 5, None)]
    assert server.pages == 0


async def test_the_first_sample_is_the_newest_known_not_the_first_of_the_journal() -> None:
    server = Server()
    server.heard = False
    for _ in range(7):
        server.publish()
    stream = server.stream()
    server.say(server.kept["one"][-1])
    assert numbers(await all_of(stream)) == [("a", 7)]


async def test_a_sample_heard_again_or_late_is_not_passed_on_again() -> None:
    server = Server()
    stream = server.stream()
    for seq in (1, 2, 2, 1):
        server.say(sample(seq))
    assert numbers(await all_of(stream)) == [("a", 1), ("a", 2)]


async def test_after_a_gap_the_journal_is_asked() -> None:
    server = Server()
    stream = server.stream()
    server.publish()
    server.heard = False
    for _ in range(350):  # several pages
        server.publish()
    server.heard = True
    server.publish()
    assert numbers(await all_of(stream)) == [("a", n) for n in range(1, 353)]


async def test_epochs_between_are_passed_on_in_order() -> None:
    server = Server()
    stream = server.stream()
    server.publish()
    server.heard = False
    for epoch in ("b", "c", "d"):
        server.publish()
        server.order.append(epoch)
    server.heard = True
    server.publish()
    came = numbers(await all_of(stream))
    assert came == [("a", 1), ("a", 2), ("b", 1), ("c", 1), ("d", 1)]


async def test_a_new_journal_that_does_not_know_the_old_epoch() -> None:
    server = Server()
    stream = server.stream()
    for _ in range(3):
        server.publish()
    server.say(sample(None))
    server.kept["one"].clear()
    server.order[:] = ["b"]
    server.heard = False
    server.publish()
    server.heard = True
    server.publish()
    expected = [*(("a", n) for n in (1, 2, 3, None)), ("b", 1), ("b", 2)]
    assert numbers(await all_of(stream)) == expected


async def test_a_device_that_moves_to_another_machine_and_back_goes_on_where_it_was() -> None:
    server = Server()
    stream = server.stream()
    here = server.kept["one"]
    for _ in range(2):
        server.publish()
    server.kept["one"], server.order[:] = [], ["b"]
    server.publish()
    assert numbers(await all_of(stream)) == [("a", 1), ("a", 2), ("b", 1)]
    server.kept["one"], server.order[:] = here, ["a"]
    server.publish()
    assert numbers(await all_of(stream)) == [("a", 3)]


async def test_a_stray_sample_of_an_earlier_epoch_changes_nothing() -> None:
    server = Server()
    stream = server.stream()
    server.publish()
    server.order.append("b")
    server.publish()
    assert numbers(await all_of(stream)) == [("a", 1), ("b", 1)]
    server.say(sample(2, "a"))
    assert numbers(await all_of(stream)) == []
    server.publish()
    assert numbers(await all_of(stream)) == [("b", 2)]


async def test_numbers_that_no_journal_has_are_reported_as_lost() -> None:
    server = Server()
    stream = server.stream()
    server.publish()
    for _ in range(4):
        server.heard = False
        server.publish()
    del server.kept["one"][1:3]
    server.heard = True
    server.say(sample(9))
    assert numbers(await all_of(stream)) == [("a", 1), ("a", 4), ("a", 5), ("a", 9)]
    assert [tuple(gone)[:4] for gone in stream.lost] == [("one", "a", 2, 3), ("one", "a", 6, 8)]


async def test_a_slow_consumer_gets_everything_and_little_waits() -> None:
    server = Server()
    stream = server.stream(size=10)
    found: list[Sample] = []
    for _ in range(200):
        for device in DEVICES:
            server.publish(device)
        await asyncio.sleep(0)
        assert stream.waiting <= 10
        if server.random.random() < 0.1:
            found += await stream.take()
    found += await all_of(stream)
    for device in DEVICES:
        came = [one["seq"] for one in found if one["device"] == device]
        assert came == list(range(1, 201))


async def test_a_journal_that_does_not_answer_is_asked_again_at_the_next_sample() -> None:
    server = Server()
    stream = server.stream()
    server.publish()
    server.heard = server.answers = False
    server.publish()
    server.heard = True
    server.publish()
    assert numbers(await all_of(stream)) == [("a", 1)]
    server.say(sample(None))  # it must not come before the samples that are missing
    assert numbers(await all_of(stream)) == []
    server.answers = True
    server.publish()
    assert numbers(await all_of(stream)) == [("a", n) for n in (2, 3, 4)]


async def test_taking_ends_at_a_time_and_after_closing() -> None:
    server = Server()
    stream = server.stream()
    assert await stream.take(asyncio.get_running_loop().time()) == []
    server.publish()
    assert await stream.take(asyncio.get_running_loop().time()) == []
    waiting = asyncio.create_task(stream.take())
    assert len(await waiting) == 1
    waiting = asyncio.create_task(stream.take())
    await asyncio.sleep(0)
    stream.close()
    assert await waiting == []
    server.publish()
    assert stream.waiting == 0


async def test_cancelled_taking_loses_nothing() -> None:
    server = Server()
    stream = server.stream()
    waiting = asyncio.create_task(stream.take())
    await asyncio.sleep(0)
    waiting.cancel()
    server.publish()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert numbers(await stream.take()) == [("a", 1)]


async def happens(server: Server, stream: Stream) -> list[Sample]:
    """Let something happen, and return what the consumer takes."""
    match server.random.choice("ppppphfetsss"):
        case "p":
            server.publish(server.random.choice(DEVICES))
        case "h":
            server.heard = not server.heard
        case "f":
            server.answers = not server.answers
        case "e" if server.random.random() < 0.2:
            server.order.append(f"e{len(server.order)}")
        case "t" if stream.waiting:
            return await stream.take()
        case "s":
            await asyncio.sleep(0)
    return []


async def test_whatever_happens_each_sample_comes_once_and_in_order(scaled: Scaled) -> None:
    for seed in range(scaled(40, soak=2000)):
        server = Server(seed)
        random = server.random
        stream = server.stream(size=random.choice((2, 10, 1000)))
        found: list[Sample] = []
        for device in DEVICES:
            server.publish(device)
        for _ in range(random.randrange(400)):
            found += await happens(server, stream)
        server.heard = server.answers = True
        for device in DEVICES:
            server.publish(device)
        found += await all_of(stream)
        for device in DEVICES:
            came = numbers([one for one in found if one["device"] == device])
            assert came == numbers(server.kept[device]), seed
        assert stream.lost == []
