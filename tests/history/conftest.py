"""Closed files are read and written by the test itself, which is quicker than another process."""

import pytest

from hcam_devices.history import worker
from hcam_devices.history.child import Child


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do the work of the other process in this one."""
    monkeypatch.setattr(Child, "_answer", lambda child, asked: worker.reply(child.folder, asked))
