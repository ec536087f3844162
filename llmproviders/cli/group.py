"""The command ``llmproviders`` itself: finds the module of a command when it is called."""

from __future__ import annotations

import shlex
from importlib import import_module
from typing import Any

import click

from .._checks import nearest
from .._version import __version__
from .arguments import FILE
from .overview import COMMANDS, OPTIONS, overview

PROGRAM = "llmproviders"

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 88}


class Subcommands(click.Group):
    """A group of commands that requires one."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments; none at all is a usage error, also before click 8.2."""
        if not args and not ctx.resilient_parsing:
            click.echo(self.get_help(ctx), err=True)
            ctx.exit(2)
        return super().parse_args(ctx, args)


class Group(Subcommands):
    """Loads a command's module when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, or None."""
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f".{cmd_name}", __package__)
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; an unknown one is a usage error with the nearest name."""
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            near = nearest(args[0], COMMANDS)
            asking = f" To ask a model: {PROGRAM} ask {shlex.quote(' '.join(args))}"
            hint = f" Did you mean {near!r}?" if near else asking
            ctx.fail(f"There is no command {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)

    def get_help(self, ctx: click.Context) -> str:
        """The overview, which can also be printed without loading this module."""
        return overview().rstrip("\n")


def _show_version(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted:
        click.echo(f"{PROGRAM} {__version__}")
        ctx.exit()


@click.group(cls=Group, context_settings=CONTEXT)
@click.option("--config", type=FILE, metavar="FILE", help=OPTIONS["--config FILE"])
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help=OPTIONS["--version"],
)
@click.pass_context
def group(ctx: click.Context, config: str | None) -> Any:
    """The command line; its help is the overview."""
    ctx.obj = config
