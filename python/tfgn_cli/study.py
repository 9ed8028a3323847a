"""`tfgn study`."""

from __future__ import annotations

import argparse
import textwrap
from typing import Any

from tfgn_base.extras import install_command
from tfgn_study import config, options
from tfgn_study.description import Option, describe
from tfgn_study.errors import RunError, StudyError
from tfgn_study.norms import NORMS
from tfgn_study.presets import PRESETS

from ._common import fail, words
from ._startup import start_tensorflow


def _entry(name: str, text: str) -> str:
    """Returns a line of a list in the help, with a hanging indent."""
    indent = " " * 17
    return textwrap.fill(text, 80, initial_indent=f"  {name:14} ", subsequent_indent=indent)


_EPILOG = "\n".join(
    [
        "normalizations:",
        *(_entry(name, norm.text) for name, norm in NORMS.items()),
        "",
        "presets (options that are given take precedence):",
        *(_entry(name, preset.title + preset.note) for name, preset in PRESETS.items()),
    ]
)


def add(commands: argparse._SubParsersAction[Any]) -> None:
    """Makes `tfgn study` known to the parser's `commands`."""
    parser = commands.add_parser(
        "study",
        help="does GroupNorm + WS help at my batch size?",
        description="Trains the same small ResNet with each normalization at each batch size and\n"
        "compares validation errors, step times and memory. Finished runs are kept:\n"
        "after an interruption, the same command continues; after a change of options,\n"
        "only the affected runs are trained again.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        # An option that is not given is left to the preset, then to its default.
        argument_default=argparse.SUPPRESS,
    )
    described = [option for option in describe(options.Options) if option.help is not None]
    for section in (None, *options.SECTIONS):
        group = parser if section is None else parser.add_argument_group(section)
        rivals = {
            option.replaces: group.add_mutually_exclusive_group()
            for option in described
            if option.section == section and option.replaces is not None
        }
        for option in described:
            if option.section == section:
                _add_option(rivals.get(option.replaces or option.field, group), option)
    parser.set_defaults(command=lambda args: _run(args, parser))


def _add_option(parser: argparse._ActionsContainer, option: Option) -> None:
    settings: dict[str, Any] = {"dest": option.field, "help": option.help}
    if option.default_text is not None:
        settings["help"] = f"{option.help} (default: {option.default_text})"
    if option.type is bool:
        settings["action"] = argparse.BooleanOptionalAction
    elif option.several:
        settings |= {"nargs": "+", "metavar": option.metavar}
    elif option.choices is not None:
        settings["choices"] = tuple(option.choices)
    else:
        settings |= {"type": option.type, "metavar": option.metavar}
    parser.add_argument(option.flag, **settings)


def _run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    try:
        study = config.resolve(options.of(_given(args)))
        start_tensorflow()
        from tfgn_study import runner

        runner.run(study)
    except StudyError as error:
        parser.error(str(error))
    except ModuleNotFoundError as error:
        return fail(f"{error.name} is missing: {install_command('study')}")
    except RunError as error:
        return fail(str(error))
    return 0


def _given(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the values of the options that were given, by field."""
    given = {}
    for option in describe(options.Options):
        if option.field in args:
            value = getattr(args, option.field)
            given[option.field] = _values(value, option) if option.several else value
    return given


def _values(texts: list[str], option: Option) -> tuple[Any, ...]:
    """Returns the values of an option that takes several, separated by spaces or commas."""
    values = []
    for word in words(texts):
        try:
            values.append(option.type(word))
        except ValueError:
            kind = "whole numbers" if option.type is int else "numbers"
            raise StudyError(f"{option.flag} must be {kind}; received {word!r}") from None
    return tuple(values)
