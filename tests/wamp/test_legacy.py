"""The configuration of the router for programs of version 1.7."""

import socket
from pathlib import Path
from typing import Any

import pytest

from hcam_devices.config.instrument import Instrument, carried, load
from hcam_devices.errors import RouterError
from hcam_devices.wamp import legacy, roles
from hcam_devices.wamp.router import configuration, with_access, with_door


def site(tmp_path: Path, listen: str = "") -> Instrument:
    path = tmp_path / "site.toml"
    path.write_text(f"{carried('hipercam').read_text()}\n[legacy]\nenabled = true\n{listen}")
    return load(path)


def made(instrument: Instrument, port: int, *, tls: bool = False) -> Any:
    """Return the worker of a router that listens on a port."""
    entries = list(instrument.entries.values())
    config = with_door(configuration(instrument, port), [])
    on = instrument.router.model_copy(update={"listen": "192.0.2.1", "tls": True} if tls else {})
    config = with_access(config, entries, Path("access"), "router", on)
    [worker] = legacy.with_realm1(config, instrument, entries, port)["workers"]
    return worker


def anonymous(transport: Any) -> tuple[str, int, str | None, set[str | None]]:
    """Return where a transport listens, and the roles there without a key, over HTTP at last."""
    endpoint, paths = transport["endpoint"], transport["paths"]
    role = paths["ws"]["auth"].get("anonymous", {}).get("role")
    doors = {paths[name]["extra"]["anonymous"] for name in ("call", "publish")}
    return endpoint["interface"], endpoint["port"], role, doors


OPERATOR = {roles.OPERATOR}


def test_programs_without_a_key_come_in_on_loopback_and_where_the_site_says(tmp_path: Path) -> None:
    worker = made(site(tmp_path, 'listen = ["192.0.2.9"]'), 8080)
    assert list(map(anonymous, worker["transports"])) == [
        ("127.0.0.1", 8080, legacy.LOCAL, OPERATOR),
        ("192.0.2.9", 8080, legacy.GUEST, OPERATOR),
    ]
    for transport in worker["transports"]:
        for name in ("call", "publish"):
            limits = transport["paths"][name]["extra"]["limits"]
            assert limits[legacy.LOCAL] == limits[legacy.GUEST]
            assert limits[legacy.LOCAL]["at_once"] == limits[roles.OBSERVER]["at_once"]
    assert "cryptosign" in worker["transports"][0]["paths"]["ws"]["auth"]
    assert "cryptosign" not in worker["transports"][1]["paths"]["ws"]["auth"]


def test_a_router_with_tls_lets_nobody_in_without_a_key_where_it_has_tls(tmp_path: Path) -> None:
    worker = made(site(tmp_path), 8443, tls=True)
    assert list(map(anonymous, worker["transports"])) == [
        ("192.0.2.1", 8443, None, {None}),
        ("127.0.0.1", 8080, legacy.GUEST, OPERATOR),
    ]
    assert "tls" not in worker["transports"][1]["endpoint"]
    with pytest.raises(RouterError, match=r"needs port 8080 .* set port in \[router\] to another"):
        made(site(tmp_path), 8080, tls=True)


def test_who_has_no_key_observes_only_outside_realm1_and_nobody_else_is_in_there(
    tmp_path: Path,
) -> None:
    worker = made(site(tmp_path), 8080)
    realms = {
        realm["name"]: {one["name"]: one["permissions"] for one in realm["roles"]}
        for realm in worker["realms"]
    }
    assert realms[legacy.REALM].keys() == {legacy.LOCAL, legacy.GUEST, legacy.BRIDGE}
    for name in ("hipercam", "replay"):
        assert realms[name][legacy.LOCAL] == realms[name][roles.OBSERVER]
        assert legacy.GUEST not in realms[name]
    [bridge] = worker["components"]
    assert bridge["extra"]["role"] in realms["hipercam"]
    assert {*bridge["extra"]["strangers"].items()} == {("autoguider", "device-autoguider")}


def test_an_address_where_the_router_cannot_listen_is_named() -> None:
    def config(port: int) -> Any:
        more = {"endpoint": {"interface": "127.0.0.1", "port": port}}
        return {"workers": [{"transports": [{}, more]}]}

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(RouterError, match=rf"needs port {port} at 127.0.0.1.*already in use"):
            legacy.require_addresses(config(port))
    legacy.require_addresses(config(port))


def test_texts_are_kept_for_what_takes_a_text(tmp_path: Path) -> None:
    worker = made(site(tmp_path), 8080)
    devices = worker["components"][0]["extra"]["devices"]
    assert devices["ngc"]["texts"] == ["add_hdu", "cmd", "load_setup", "setup", "status"]
    bypass = [f"{one}.bypass" for one in ("coolant", "overheating", "vacuum", "cooling")]
    assert devices["ccd1"]["texts"] == bypass
    assert not any(devices[name]["texts"] for name in ("slide", "gtc", "meerstetter1"))
    assert devices["slide"] == {
        "kind": "zaber.FocalPlaneSlide",
        "names": ["slide", "FocalPlaneSlide"],
        "setpoints": ["target_position"],
        "texts": [],
    }


AXIS = ["home", "move", "stop"]
CALLED = {
    "ngc": [
        *("summary", "online", "offline", "pon", "poff", "seq_start", "seq_stop", "reset"),
        *("standby", "load_setup", "start", "abort", "stop", "status", "add_hdu"),
        *("start_ngc_server", "stop_ngc_server", "setup_ngc_server"),
    ],
    "gtc": [
        *("get_telescope_pars", "load_nod_pattern", "gtc.start_nodding", "gtc.stop_nodding"),
        *("gtc.do_offset", "gtc.do_guide_step", "get_focus", "change_focus"),
        *("start_pointing_model", "add_star", "change_star"),
    ],
    "slide": [*(f"stage.{one}" for one in AXIS), "block", "unblock", "reset", "enable", "disable"],
    "compo_lens": [f"stage.{one}" for one in AXIS],
    "compo_arms": [f"{arm}.{one}" for arm in ("pickoff", "injection") for one in AXIS],
    "meerstetter1": ["reset"],
    **{name: ["connection.disconnect", "connection.connect"] for name in ("pressure1", "flow")},
}
"""What programs of version 1.7 call."""


@pytest.mark.parametrize("device", CALLED)
def test_an_operator_may_do_what_programs_of_version_1_7_do(tmp_path: Path, device: str) -> None:
    [realm, *_] = made(site(tmp_path), 8080)["realms"]
    [operator] = (one for one in realm["roles"] if one["name"] == roles.OPERATOR)
    allowed = {one["uri"] for one in operator["permissions"] if one["allow"]["call"]}
    assert {f"hipercam.{device}.rpc.{name}" for name in CALLED[device]} <= allowed
