"""Slots that a codec must not round: the rule subtracts later values from them.

The difference of two roundings would be noise. Each rule declares its slots in its file.
"""

from typing import Any

from gradx.codecs.squares import link_name

__all__ = []  # internal: `store` asks

EXACT: dict[str, set[str]] = {}  # by link


def declare_exact(*fields: str, of: Any) -> None:
    """Say which fields of the state class `of` stay exact in `store`, unless it names a format for them."""
    EXACT[link_name(of)] = set(fields)


def is_exact(link: str, field: str) -> bool:
    """Whether a field of a link's state must not be rounded; both named as `states.entries` has them."""
    return field in EXACT.get(link, ())
