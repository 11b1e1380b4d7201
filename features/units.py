"""Unit: the address of one channel of one layer, written ``layer:channel``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Unit:
    """One channel of one layer.

    The text form is ``layer:channel``, parsed at the *last* colon, so that a layer's name may itself contain colons,
    dots and underscores. Units sort by layer name and then by channel number. A position or a direction belongs to an
    objective, never to the address.

    >>> Unit.of("mixed4b:409")
    Unit(layer='mixed4b', channel=409)
    >>> str(Unit("layer2.1", 7))
    'layer2.1:7'
    >>> Unit.of("a:b:3").layer
    'a:b'
    """

    layer: str
    channel: int

    def __post_init__(self) -> None:
        if not isinstance(self.layer, str) or not self.layer:
            raise TypeError(f"a unit's layer is the name of a layer, not {self.layer!r}: write Unit('mixed4b', 409)")
        if isinstance(self.channel, bool) or not hasattr(self.channel, "__index__"):
            raise TypeError(f"a unit's channel is a whole number, not {self.channel!r}: write Unit('mixed4b', 409)")
        if self.channel.__index__() < 0:
            raise ValueError(
                f"channels count from 0, so {self.channel} is none: write Unit({self.layer!r}, 0) or above"
            )
        object.__setattr__(self, "channel", self.channel.__index__())

    @classmethod
    def of(cls, unit: Unit | str) -> Unit:
        """Give the unit that ``unit`` is or spells; ``ValueError`` for text that is no address, else ``TypeError``.

        >>> Unit.of(Unit("mixed3a", 0)) == Unit.of("mixed3a:0")
        True
        """
        if isinstance(unit, Unit):
            return unit
        if not isinstance(unit, str):
            raise TypeError(f"a unit is a Unit or text such as 'mixed4b:409', not {type(unit).__name__}")
        layer, colon, channel = unit.rpartition(":")
        if not (colon and layer and channel.isascii() and channel.isdigit()):
            raise ValueError(f"{unit!r} is no unit: write 'layer:channel', for example 'mixed4b:409'")
        return cls(layer, int(channel))

    def __str__(self) -> str:
        return f"{self.layer}:{self.channel}"
