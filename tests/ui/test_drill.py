"""A rehearsal without a network: how it ends after an error."""

import asyncio

import pytest

from hcam_devices import HcamError
from hcam_devices.ui.drill.half import together


async def test_an_error_ends_the_others_when_they_have_set_everything_back() -> None:
    done: list[str] = []

    async def drives() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0)
            done.append("set back")

    async def fails() -> None:
        raise HcamError("no answer")

    with pytest.raises(HcamError, match="no answer"):
        await together(drives(), fails())
    assert done == ["set back"]
