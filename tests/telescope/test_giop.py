"""GIOP messages as omniORB sends them, in both byte orders, and malformed ones."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcam_devices.telescope import giop
from hcam_devices.telescope.sim import Simulator

from ..helpers import fed

RESOLVE = bytes.fromhex(
    "47494f50010001005100000000000000060000000100 00000b0000004e616d65536572766963650008000000"
    "7265736f6c766500000000000100000015000000484950455254656c6573636f70655365727665720000000001"
    "00000000"
)
GETTER = bytes.fromhex(
    "47494f5001020100500000000400000003000000000000000e000000fe4406036b0000 5d0100000000010000"
    "110000006765744d3154656d706572617475726500000000010000000100 00000c0000000100000001000100"
    "09010100"
)
BIG_ENDIAN = struct.pack(
    ">4s4BIIB3xH2xI9s3xI9s3xI",
    *(b"GIOP", 1, 2, 0, giop.REQUEST, 48, 7, 3, 0, 9, b"telescope", 9, b"_get_top\0", 0),
)


def test_requests_of_each_version_and_byte_order_are_understood() -> None:
    request = giop.parse(RESOLVE)
    assert request
    assert (request.minor, request.number, request.key) == (0, 6, b"NameService")
    assert (request.operation, request.oneway) == ("resolve", False)
    arguments = request.arguments
    assert arguments.number("I") == 1
    assert (arguments.text(), arguments.text()) == ("HIPERTelescopeServer", "")
    request = giop.parse(GETTER)
    assert request
    assert (request.minor, request.number, len(request.key)) == (2, 4, 14)
    assert request.operation == "getM1Temperature"
    request = giop.parse(BIG_ENDIAN)
    assert request
    assert (request.number, request.key, request.operation) == (7, b"telescope", "_get_top")


def test_a_reply_has_the_version_and_the_byte_order_of_its_request() -> None:
    request = giop.parse(GETTER)
    assert request
    reply = request.reply(giop.NO_EXCEPTION, lambda writer: writer.number("f", 7.25))
    seen = "47494f500102010110000000040000000000000000000000 0000e840"
    assert reply == bytes.fromhex(seen)
    request = giop.parse(BIG_ENDIAN)
    assert request
    reply = request.reply(giop.NO_EXCEPTION, lambda writer: writer.number("f", 7.25))
    assert reply == bytes.fromhex("47494f5001020001 00000010 00000007 00000000 00000000 40e80000")


@given(st.lists(st.integers(1, 40)))
def test_messages_survive_any_split(sizes: list[int]) -> None:
    assert fed(giop.cut, RESOLVE + GETTER + BIG_ENDIAN, sizes) == [RESOLVE, GETTER, BIG_ENDIAN]


@pytest.mark.parametrize("message", [RESOLVE, GETTER, BIG_ENDIAN])
def test_a_message_cut_short_or_damaged_is_answered_all_the_same(message: bytes) -> None:
    simulator = Simulator()
    simulator.simulate("junk")
    for end in range(len(message)):
        for damaged in (
            message[:end],
            message[:end] + b"\xff" + message[end + 1 :],
            message[:end] + b"\0" + message[end + 1 :],
        ):
            assert isinstance(simulator.answer(damaged), bytes)


@given(st.binary())
def test_what_is_not_giop_is_called_an_error(noise: bytes) -> None:
    buffer = bytearray(12 * b"?" + noise)
    frame = giop.cut(buffer)
    assert frame
    assert not buffer
    assert Simulator().answer(frame) == giop.MESSAGE_ERROR


@given(st.lists(st.text(st.characters(codec="latin-1", exclude_characters="\0"))))
def test_texts_are_read_as_they_were_written(texts: list[str]) -> None:
    for order in giop.ORDERS:
        writer = giop.Writer(order)
        writer.texts(texts)
        reader = giop.Reader(bytes(writer.data), order)
        assert [reader.text() for _ in range(reader.number("I"))] == texts
