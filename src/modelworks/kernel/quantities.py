"""Amounts as people write them (``500m``, ``2Gi``, ``90s``) and as the platform computes with them.

CPU is counted in millicores, memory in bytes, time in seconds. The grammar is Kubernetes' for CPU and memory.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer

_NUMBER = r"([0-9]{1,18}(?:\.[0-9]{1,18})?)"
_CPU = re.compile(rf"{_NUMBER}(m?)")
_BYTES = re.compile(rf"{_NUMBER} ?([KMGTPE]i?|k)?B?")
_DURATION_PART = re.compile(rf"{_NUMBER}(ms|s|m|h|d)")
_DURATION = re.compile(rf"(?:{_NUMBER}(?:ms|s|m|h|d))+")

_FACTORS: dict[str, int] = {
    "": 1,
    "k": 10**3,
    **{unit: 1000**power for power, unit in enumerate("KMGTPE", start=1)},
    **{f"{unit}i": 1024**power for power, unit in enumerate("KMGTPE", start=1)},
}
_LEAST_MONEY = 1e-6
_LONGEST = 1e10  # seconds, some three hundred years: what a timestamp can be moved by
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_cpu(value: object) -> int:
    """``"500m"``, ``"1.5"``, ``2`` → millicores. Raises ValueError with the accepted forms."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value) if isinstance(value, int) else f"{value:f}"
    match = _CPU.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"not a CPU amount: {value!r}; write cores as 2 or 0.5, or millicores as 500m")
    return round(float(match[1]) * (1 if match[2] else 1000))


def parse_bytes(value: object) -> int:
    """``"2Gi"``, ``"500M"``, ``1048576`` → bytes. Raises ValueError with the accepted forms."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63:
        return value
    match = _BYTES.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"not an amount of memory: {value!r}; write it as 512Mi, 2Gi or a number of bytes")
    return round(float(match[1]) * _FACTORS[match[2] or ""])


def parse_duration(value: object) -> float:
    """``"90s"``, ``"1h30m"``, ``30`` → seconds. Raises ValueError with the accepted forms."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _LONGEST:
        return float(value)
    text = value.strip() if isinstance(value, str) else ""
    if re.fullmatch(_NUMBER, text):
        seconds = float(text)
    elif _DURATION.fullmatch(text):
        seconds = sum(float(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(text))
    else:
        raise ValueError(f"not a duration: {value!r}; write it as 30s, 5m, 1h30m or a number of seconds")
    if seconds > _LONGEST:
        raise ValueError(f"too long: {value!r}; no time is longer than {_LONGEST:.0f} seconds")
    return seconds


def format_cpu(millis: int) -> str:
    """Millicores → ``"2"`` or ``"500m"``."""
    return str(millis // 1000) if millis % 1000 == 0 else f"{millis}m"


def format_bytes(amount: int) -> str:
    """Bytes → the largest binary unit with at most one decimal: ``"2.1Gi"``, ``"512Mi"``, ``"100B"``."""
    if amount < 1024:
        return f"{amount}B"
    power = min((amount.bit_length() - 1) // 10, 6)
    value = amount / 1024**power
    if value >= 1023.95 and power < 6:  # would print as 1024.0
        value, power = value / 1024, power + 1
    return f"{value:.1f}".removesuffix(".0") + "BKMGTPE"[power] + "i"


def format_money(amount: float) -> str:
    """Two places from one on; below, four digits that count and at most six places: costs of seconds are small."""
    if amount == 0 or round(amount, 4) >= 1:
        return f"{amount:.2f}"
    if amount < _LEAST_MONEY:
        return f"<{_LEAST_MONEY:f}"
    exact = Decimal(amount)
    return format_decimal(round(exact, min(6, 3 - exact.adjusted())))


def format_decimal(value: Decimal) -> str:
    """Without zeros at the end and without an exponent."""
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def format_duration(seconds: float) -> str:
    """Seconds → ``"1h30m"``, ``"90.0s"`` style text for people: two largest units, or one decimal below a minute."""
    if seconds < 60:
        return f"{seconds:.1f}".removesuffix(".0") + "s"
    left, parts = round(seconds), []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        amount, left = divmod(left, size)
        if amount:
            parts.append(f"{amount}{unit}")
    return "".join(parts[:2])


Cpu = Annotated[
    int,
    BeforeValidator(parse_cpu, json_schema_input_type=str | float),
    # As text, since a bare integer would be read back as cores.
    PlainSerializer(lambda millis: f"{millis}m", return_type=str, when_used="json"),
]
"""A field in millicores that accepts ``500m``, ``1.5`` or a number of cores; an ``int`` is cores, not millicores."""

Bytes = Annotated[int, BeforeValidator(parse_bytes, json_schema_input_type=str | int)]
"""A field in bytes that accepts ``2Gi``."""

Duration = Annotated[float, BeforeValidator(parse_duration, json_schema_input_type=str | float)]
"""A field in seconds that accepts ``1h30m``."""
