"""What an objective is for lucent: a function of ``T`` that gives a loss; its algebra, and what makes it."""

from __future__ import annotations

import functools
import numbers
import operator
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, SupportsIndex

from torch import Tensor

from features.visualization.guests import Loss, Read

P = ParamSpec("P")

LONGEST = 15  # characters of an argument in a description


class Objective:
    """A loss as a function of ``T``, with a name and a description; it adds, subtracts, and is multiplied by numbers.

    ``objective(T)`` gives the loss. Terms may be any functions of ``T``, those of an installed lucent too.

    >>> import torch
    >>> dark = Objective(lambda T: T("input").mean(), "dark")
    >>> (2 * dark - dark / 2)(lambda layer: torch.tensor([1.0, 3.0]))
    tensor(3.)
    """

    def __init__(self, objective_func: Callable[[Read], Any], name: str = "", description: str = "") -> None:
        self.objective_func = objective_func
        self.name = name
        self.description = description

    def __call__(self, model: Read) -> Any:
        return self.objective_func(model)

    def __repr__(self) -> str:
        return f"Objective({self.description or self.name})"

    def __add__(self, other: Any) -> Objective:
        if _is_number(other):
            return Objective(lambda T: other + self(T), self.name, self.description)
        return Objective.sum([self, other])

    def __radd__(self, other: Any) -> Objective:
        return self.__add__(other)

    def __neg__(self) -> Objective:
        return self.__mul__(-1)

    def __sub__(self, other: Any) -> Objective:
        return self.__add__(-other if _is_number(other) else Objective.sum([other]).__mul__(-1))

    def __rsub__(self, other: Any) -> Objective:
        return self.__mul__(-1).__add__(other)

    def __mul__(self, other: Any) -> Objective:
        if not _is_number(other):
            raise TypeError(f"an objective is multiplied by a number, not by {type(other).__name__}")
        return Objective(lambda T: other * self(T), self.name, self.description)

    def __rmul__(self, other: Any) -> Objective:
        return self.__mul__(other)

    def __truediv__(self, other: Any) -> Objective:
        if not _is_number(other):
            raise TypeError(f"an objective is divided by a number, not by {type(other).__name__}")
        return self.__mul__(1 / other)

    @staticmethod
    def sum(objs: Sequence[Loss]) -> Objective:
        """Give the sum of functions of ``T``.

        >>> brightness = Objective(lambda T: -T("input").mean(), "brightness")
        >>> Objective.sum([brightness, brightness]).name
        'brightness, brightness'
        """
        terms = list(objs)
        if not terms or not all(map(callable, terms)):
            raise TypeError(f"{terms} has what is no objective: give functions of T, at least one")
        names = [str(getattr(each, "name", "") or getattr(each, "__name__", "")) for each in terms]
        said = [str(getattr(each, "description", "") or name) for each, name in zip(terms, names, strict=True)]
        description = said[0] if len(said) == 1 else "Sum(" + " +\n".join(said) + ")"
        return Objective(lambda T: sum(each(T) for each in terms), ", ".join(names), description)


def wrap_objective() -> Callable[[Callable[P, Loss]], Callable[P, Objective]]:
    """Give a decorator that makes functions which give a function of ``T`` give an `Objective`.

    >>> @wrap_objective()
    ... def brightness(layer):
    ...     return lambda T: -T(layer).mean()
    >>> brightness("input").description
    'Brightness [input]'
    """

    def inner(make: Callable[P, Loss]) -> Callable[P, Objective]:
        @functools.wraps(make)
        def made(*args: P.args, **kwargs: P.kwargs) -> Objective:
            said = [_short(each) for each in args] + [f"{key}={_short(each)}" for key, each in kwargs.items()]
            return Objective(make(*args, **kwargs), make.__name__, f"{make.__name__.title()} [{', '.join(said)}]")

        return made

    return inner


def handle_batch(batch: SupportsIndex | None = None) -> Callable[[Loss], Loss]:
    """Give a decorator for functions of ``T`` that shows them picture ``batch`` alone, or all without one.

    Any whole number will do, numpy's too; ``IndexError`` for one that the batch does not have (lucent sees all pictures
    or none, in silence).

    >>> import torch
    >>> first = handle_batch(0)(lambda T: T("conv").sum())
    >>> first(lambda layer: torch.ones(3, 2))
    tensor(2.)
    """
    place = None if batch is None else operator.index(batch)

    def read(T: Read, layer: str) -> Tensor:
        values = T(layer)
        if place is None:
            return values
        if not -len(values) <= place < len(values):
            raise IndexError(f"no picture {place} in a batch of {len(values)}: they are counted from 0")
        return values[place : place + 1 or None]

    return lambda loss: lambda T: loss(lambda layer: read(T, layer))


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real)


def _short(value: object) -> str:
    text = str(value)
    return "..." if len(text) > LONGEST or "\n" in text else text
