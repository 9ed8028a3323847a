"""How a study's options are described, each once, at a dataclass field.

`option` makes the field. The command line, the checks and the report read the descriptions of all
options with `describe`.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Callable, Iterable
from types import NoneType
from typing import Any

from .errors import StudyError

_KEY = "option"


@dataclasses.dataclass(frozen=True)
class Range:
    """The values that an option may have.

    Attributes:
        holds: whether it may have a value.
        text: what the value must be, for the error.
    """

    holds: Callable[[Any], bool]
    text: str


ABOVE_0 = Range(lambda value: math.isfinite(value) and value > 0, "a finite number above 0")
BETWEEN_0_AND_1 = Range(lambda value: 0 < value < 1, "between 0 and 1")
AT_LEAST_1 = Range(lambda value: value >= 1, "at least 1")


def among(names: Iterable[str]) -> Range:
    """Returns the range of these names."""
    names = tuple(names)
    return Range(lambda value: value in names, f"among {', '.join(names)}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Option:
    """The description of an option.

    Attributes:
        field: name of the dataclass field.
        type: `bool`, `int`, `float`, `str` or `Path`: the type of the value, or of each value.
        several: whether the option is a tuple of values.
        default: the default.
        flag: the option as it is typed, also in errors: `--batch-sizes`.
        help: help text, or `None` for an option that the command line does not have.
        range: range of the value, or of each value; `None` for no limits.
        section: title of its section in the help, or `None` for the section without a title.
        metavar: stands for the value in the help.
        choices: the values that the command line accepts, or `None` for any.
        shown_default: text for the default in the help, or `None` for the default itself.
        replaces: the field that becomes `None` if this option is given, or `None`.
        sentence: sentence of the report if the option is used, with `{}` for its value, or `None`.
    """

    field: str
    type: Callable[[str], Any]
    several: bool
    default: Any
    flag: str
    help: str | None = None
    range: Range | None = None
    section: str | None = None
    metavar: str | None = None
    choices: Iterable[str] | None = None
    shown_default: str | None = None
    replaces: str | None = None
    sentence: str | None = None

    @property
    def default_text(self) -> str | None:
        """The default as the help shows it, or `None` if there is nothing to show."""
        if self.shown_default is not None or self.default is None:
            return self.shown_default
        if self.default is False:
            return "no"
        return ",".join(map(str, self.default)) if self.several else str(self.default)

    def check(self, value: Any) -> None:
        """Checks a value of the option; `None` is always valid.

        Raises:
            StudyError: if the value is out of range, or empty where there may be several.
        """
        if value is None:
            return
        if self.several and not value:
            raise StudyError(f"{self.flag} must not be empty")
        if self.range is not None:
            for part in value if self.several else [value]:
                require(self.range.holds(part), self.flag, part, self.range.text)


def option(default: Any, **described: Any) -> Any:
    """Returns the dataclass field of an option.

    Args:
        default: the default of the field.
        **described: attributes of `Option`; `flag` is the name of the field with dashes by
            default. The field, the type and `several` follow from the name and the annotation.
    """
    return dataclasses.field(default=default, metadata={_KEY: described})


def describe(options: type) -> list[Option]:
    """Returns the options of a dataclass, in the order of its fields."""
    hints = typing.get_type_hints(options)
    described = []
    for field in dataclasses.fields(options):
        if _KEY in field.metadata:
            kind = _without_none(hints[field.name])
            several = typing.get_origin(kind) is tuple
            attributes: dict[str, Any] = {
                "field": field.name,
                "type": typing.get_args(kind)[0] if several else kind,
                "several": several,
                "default": field.default,
                "flag": f"--{field.name.replace('_', '-')}",
            }
            described.append(Option(**attributes | field.metadata[_KEY]))
    return described


def require(holds: bool, flag: str, value: object, text: str) -> None:
    """Raises a `StudyError` that the option must be what the text says, unless that holds."""
    if not holds:
        raise StudyError(f"{flag} must be {text}; received {value!r}")


def _without_none(hint: Any) -> Any:
    parts = typing.get_args(hint)
    return next(part for part in parts if part is not NoneType) if NoneType in parts else hint
