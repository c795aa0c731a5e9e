"""What all commands share: help without names of Python types, and a hint where KEY=VALUE is given without -s."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Any

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

UsageError: Any = typer.BadParameter.__mro__[1]
"""Typer's error for a command line that does not parse; Typer itself does not export it."""
_SETTING = re.compile(r"(?:--)?([a-z][a-z0-9_]*(?:\.[a-z0-9_]+)*)=(.*)", re.DOTALL)


class Command(TyperCommand):
    """A command whose help shows a type only where it helps, and that knows how keys are set."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Returns arguments and options, ``--help`` among them, as the help shows them."""
        return _plain(super().get_params(ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Reads the command line; where it holds what -s would take, the error says so."""
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except UsageError as error:
            options = {name for param in self.params for name in (*param.opts, *param.secondary_opts)}
            setting = _setting_without_option(given, options)
            if setting and error.message and any(param.name == "overrides" for param in self.params):
                error.message = f"{error.message.rstrip('. ')}. Did you mean -s {setting}?"
            raise


class Group(TyperGroup):
    """Several commands under one name, with the same help."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Returns the options, ``--help`` among them, as the help shows them."""
        return _plain(super().get_params(ctx))


class App(typer.Typer):
    """A group of commands, each a :class:`Command`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(cls=Group, **options)

    def command(self, name: str | None = None, **options: Any) -> Callable[[Any], Any]:
        """Registers a function as a command."""
        return super().command(name, **{"cls": Command, **options})


def _plain(params: list[Any]) -> list[Any]:
    """``params`` without the types of arguments, which are names or paths, and of flags, which take no value."""
    for param in params:
        if isinstance(param, TyperArgument) or (isinstance(param, TyperOption) and param.is_flag):
            param.display_type_rich = _no_type  # type: ignore[assignment, method-assign, unused-ignore]
    return params


def _no_type(ctx: object) -> None:
    return None


def _setting_without_option(args: list[str], options: Collection[str]) -> str | None:
    """The first KEY=VALUE, or --KEY=VALUE, that does not follow -s and is none of the command's own options."""
    for before, argument in zip(["", *args], args, strict=False):
        match = _SETTING.fullmatch(argument)
        if match and before not in ("-s", "--set") and argument.partition("=")[0] not in options:
            return f"{match[1]}={match[2]}"
    return None
