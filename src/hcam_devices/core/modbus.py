"""A link that speaks Modbus TCP, through pymodbus."""

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from ..errors import RefusedError
from ..host.addresses import addresses_of, first_reached
from .link import MAX_SKIPPED, Lasting, Port, Seconds, quoted

if TYPE_CHECKING:  # 15 ms, which only the server of such a device needs
    from pymodbus.client import AsyncModbusTcpClient

EXCEPTIONS = {
    1: "illegal function",
    2: "illegal address",
    3: "illegal value",
    4: "device failure",
    6: "busy",
    10: "gateway path unavailable",
    11: "gateway target does not answer",
}


@dataclass(kw_only=True)
class Modbus(Lasting):
    """Input registers of unit ``unit`` at ``host`` and ``port``; ``timeout`` in seconds."""

    host: str = "127.0.0.1"
    """The name or address of the hardware, or of what leads to it."""
    port: Port = 502
    """Its TCP port."""
    unit: Annotated[int, Field(ge=0, le=255)] = 1
    """The Modbus unit."""
    timeout: Seconds = 1.0
    """The deadline (s) of an answer."""
    # Any, because the annotations of settings are evaluated, and the class is not imported above.
    _client: Any = field(default=None, init=False, repr=False)
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock, init=False, repr=False)
    _heard: bytes = field(default=b"", init=False, repr=False)

    async def open(self) -> None:
        """Look the host up, and connect, each within ``timeout`` seconds; raises OSError."""
        self._heard = b""
        addresses = await addresses_of(self.host, self.timeout)
        self._client = await first_reached(addresses, self._connected)
        await super().open()

    async def _connected(self, address: str) -> "AsyncModbusTcpClient":
        from pymodbus.client import AsyncModbusTcpClient  # noqa: PLC0415  (see above)

        client = AsyncModbusTcpClient(
            address,
            port=self.port,
            timeout=self.timeout,
            retries=0,
            reconnect_delay=0,
            trace_connect=self._follow,
            trace_packet=self._packet,
        )
        if not await client.connect():
            raise ConnectionRefusedError(f"no connection to {self}")
        return client

    def _packet(self, sending: bool, data: bytes) -> bytes:
        self._show(">" if sending else "<", data, "")
        if not sending:
            self._heard = (self._heard + data)[-MAX_SKIPPED:]
        return data

    def _follow(self, connected: bool) -> None:
        if not connected:
            said = quoted(self._heard)
            super().close(ConnectionResetError(f"{self} closed the connection{said}"))

    def close(self, reason: BaseException | None = None) -> None:
        """Drop the connection."""
        super().close(reason)
        if self._client:
            self._client.close()
            self._client = None

    async def ask(self, codec: Any, ref: tuple[int, int], value: None = None) -> list[int]:
        """Return input registers: ``ref`` is the first one's address, and how many.

        Raises RefusedError for a Modbus exception; TimeoutError, and closes, without an answer.
        """
        from pymodbus.exceptions import ModbusException  # noqa: PLC0415  (see above)

        address, count = ref
        async with self._turn:
            if self._client is None:
                raise ConnectionError(f"not connected to {self}")
            try:
                reply = await self._client.read_input_registers(
                    address, count=count, device_id=self.unit
                )
                task = asyncio.current_task()
                if task and task.cancelling():  # Python 3.11's wait_for may swallow it
                    raise asyncio.CancelledError
            except ModbusException:
                late = TimeoutError(
                    f"{self} did not answer within {self.timeout:g} s{quoted(self._heard)}"
                )
                lost = self._lost.exception() if self._lost and self._lost.done() else None
                self.close(lost or late)
                raise lost or late from None
            except BaseException as error:
                self.close(error)
                raise
            self._heard = b""
        if reply.isError():
            code = reply.exception_code
            raise RefusedError(f"Modbus exception {code} ({EXCEPTIONS.get(code, 'unknown')})")
        if len(reply.registers) != count:
            raise RefusedError(f"{len(reply.registers)} registers came, {count} were asked for")
        return list(reply.registers)

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"
