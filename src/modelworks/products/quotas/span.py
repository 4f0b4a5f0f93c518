"""The span of the calendar that an amount of money is for. Pure; days are UTC."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from modelworks.products.quotas.spec import Per


def span(per: Per, now: datetime) -> tuple[datetime, datetime]:
    """From when to when (exclusive) the span is that holds ``now``."""
    midnight = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if per is Per.DAY:
        return midnight, midnight + timedelta(days=1)
    if per is Per.WEEK:
        monday = midnight - timedelta(days=midnight.weekday())
        return monday, monday + timedelta(days=7)
    first = midnight.replace(day=1)
    return first, (first + timedelta(days=32)).replace(day=1)
