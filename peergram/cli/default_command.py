"""A group of commands of which one is meant where none is named."""

from __future__ import annotations

from typing import Any

import click


class GroupWithDefault(click.Group):
    """`peergram id alice` is `peergram id show alice`. A name that is also a command is given with its prefix (`str:new`)."""

    def __init__(self, *args: Any, default: str, usage: str, **options: Any) -> None:
        super().__init__(*args, **options)
        self._default = default
        self._usage = usage

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = [self._default, *args]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name in self.commands if name != self._default]

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_usage(ctx.command_path, self._usage)
        formatter.write_usage(ctx.command_path, "COMMAND ...", prefix="   or: ")
