"""The rack in the telescope's cabinet: its temperatures, and the dew point of the air around it.

    -> getCabinetTemperature1, 2, 3     top, middle, bottom, in deg C
    -> getHumidity                      percent
    -> getTelescopeParams               header groups; the air's temperature is T_TUBE, in deg C

The telescope is read over CORBA (``telescope.corba``). Its interface is not public: operations and
units are known from their use in the predecessor, hcam_devices 1.7.4; result types are inferred.
"""

import math
from typing import Any, ClassVar

from ..core import Device, Readback, RefusedError
from ..telescope.corba import Corba
from ..telescope.headers import parse
from ..telescope.sim import Simulator  # noqa: F401  (Device finds it by its name)

HEADER = "getTelescopeParams"
MAGNUS_A, MAGNUS_B = 17.625, 243.04
HUMIDITIES, TEMPERATURES = (0.0, 110.0), (-90.0, 60.0)
"""Plausible values of the air, in percent (allowing for sensor errors) and deg C."""


def dew_point(temperature: float, humidity: float) -> float:
    """Return the dew point in deg C of air of a temperature in deg C and a humidity in percent.

    Magnus' formula, with the coefficients of Alduchov and Eskridge (1996): accurate to 0.4 % of the
    vapour pressure from -40 to 50 deg C. Raises ValueError for an implausible value.
    """
    low, high = HUMIDITIES
    if not low < humidity <= high:
        raise ValueError(f"no dew point: a humidity of {humidity:g} % is impossible")
    low, high = TEMPERATURES
    if not low <= temperature <= high:
        raise ValueError(f"no dew point: an air temperature of {temperature:g} deg_C is impossible")
    alpha = math.log(humidity / 100) + MAGNUS_A * temperature / (MAGNUS_B + temperature)
    return MAGNUS_B * alpha / (MAGNUS_A - alpha)


class Rack(Device):
    """The temperatures in the rack, and the dew point of the air."""

    link_type: ClassVar[Any] = Corba

    rack_temp_top = Readback(
        unit="deg_C", question="getCabinetTemperature1", doc="Temperature at the top of the rack."
    )
    rack_temp_middle = Readback(
        unit="deg_C",
        question="getCabinetTemperature2",
        doc="Temperature in the middle of the rack.",
    )
    rack_temp_bottom = Readback(
        unit="deg_C",
        question="getCabinetTemperature3",
        doc="Temperature at the bottom of the rack.",
    )
    dewpoint = Readback(
        unit="deg_C",
        question="getHumidity",
        doc="Dew point of the air, from its humidity and temperature (T_TUBE).",
    )

    def questions(self) -> list[Any]:
        """Return the operations of a poll, which are called together."""
        return [*super().questions(), HEADER]

    def value_in(self, answer: Any, field: Readback) -> float:
        """Return a temperature. Raises RefusedError or ValueError if there is none."""
        number: float = self.link.number_in(field.question, answer)
        return self._dew_point(number) if field.name == "dewpoint" else number

    def _dew_point(self, humidity: float) -> float:
        groups = self.answers[HEADER]
        if isinstance(groups, RefusedError):
            raise groups
        item = parse(str(group) for group in groups).get("T_TUBE")
        if item is None:
            raise RefusedError("no dew point: the telescope's header has no T_TUBE")
        try:
            tube = float(item.value)
        except ValueError:
            raise ValueError(f"no dew point: T_TUBE is {item.value!r}, not a number") from None
        return dew_point(tube, humidity)
