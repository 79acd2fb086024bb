"""The recorder, or the process that closes nights, is killed: nothing is lost, doubled or wrong."""

import random
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import psutil

from hcam_devices.history.stores.embedded import EmbeddedStore

from ...conftest import Scaled
from ...helpers import AT_MOST, Clock
from .files import all_of, numbers_of
from .writer import START, STEP_MS, numbers, point

WRITER = Path(__file__).with_name("writer.py")


def test_killed_at_any_instant_it_loses_and_doubles_nothing(tmp_path: Path, scaled: Scaled) -> None:
    rng = random.Random(19)
    merged = 0
    for kill in range(scaled(20, soak=200)):
        if merged and kill >= scaled(4, soak=200):
            break
        steps = rng.randint(1, 100) if kill % 2 else 0
        process = subprocess.Popen(
            [sys.executable, WRITER, str(tmp_path), str(kill), str(steps)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout
        said = []
        with process.stdout:
            for _ in range(rng.randint(1, 80)):
                said.append(process.stdout.readline())
                if rng.random() < 0.05:
                    for child in psutil.Process(process.pid).children():
                        child.kill()  # another one is started
            if not steps:
                time.sleep(rng.random() / 10)
                process.kill()
            said += process.stdout
        process.wait(AT_MOST)
        told = max((int(line.split()[1]) for line in said if line.startswith("wrote")), default=-1)
        clock = Clock((START + STEP_MS * (told + 2)) / 1000)
        with closing(EmbeddedStore("embedded", tmp_path, clock=clock)) as store:
            assert numbers_of(store.stored) == {one[:3] for one in all_of(tmp_path)}
            assert store.warning == ""
        there = all_of(tmp_path)
        possible = {one[:3]: one for one in (point(*number) for number in numbers(told + 1))}
        certain = {point(*number)[:3] for number in numbers(told)}
        assert certain <= {one[:3] for one in there}
        assert len(there) == len({one[:3] for one in there})
        assert all(possible[one[:3]] == one for one in there)
        merged = max(merged, len([*tmp_path.glob("nights/*/slide.parquet")]))
    assert merged >= scaled(1, soak=3)
    EmbeddedStore("embedded", tmp_path).close()
    assert not [*tmp_path.glob("nights/*/*.new"), *tmp_path.glob("*damaged*")]
