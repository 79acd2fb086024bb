"""The files of the panel: what is not ours is unchanged, and nothing is fetched from elsewhere."""

import hashlib
import json
import re
from base64 import b64encode

from hcam_devices.wamp.router import panel

VENDOR = panel() / "vendor"
LIST = json.loads((VENDOR / "list.json").read_text())


def test_what_is_not_ours_is_unchanged_and_has_its_licence() -> None:
    listed = {one["file"]: one["sha256"] for one in LIST}
    licences = {one["text"] for one in LIST}
    there = {file.name: file for file in VENDOR.iterdir()}
    assert there.keys() == listed.keys() | licences | {"list.json"}
    for name, wanted in listed.items():
        assert hashlib.sha256(there[name].read_bytes()).hexdigest() == wanted, name
    for one in LIST:
        words = {"MIT": "MIT", "Apache-2.0": "Apache License", "OFL-1.1": "SIL Open Font"}
        assert words[one["licence"]] in there[one["text"]].read_text()


def test_only_the_listed_script_is_allowed_in_the_page() -> None:
    page = (panel() / "index.html").read_text()
    [policy] = re.findall(r'Content-Security-Policy" content="(.*?)"', page)
    inline = re.findall(r"<script(?![^>]*src=)[^>]*>(.*?)</script>", page, re.DOTALL)
    hashes = [b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in inline]
    assert re.findall(r"'sha256-(.*?)'", policy) == hashes
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_no_file_of_ours_names_another_host() -> None:
    for file in panel().iterdir():
        if file.is_file():
            urls = re.findall(r"https?://[^\s\"'`)]+", file.read_text())
            assert set(urls) <= {"http://www.w3.org/2000/svg"}, file.name
