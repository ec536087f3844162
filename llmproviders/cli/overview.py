"""The list of commands and the help that shows it; loads nothing else."""

from __future__ import annotations

COMMANDS = {
    "ask": "Ask for one reply, and stream it to standard output.",
    "chat": "Hold a conversation at the terminal.",
    "batch": "Answer a file of prompts, one JSON object per line.",
    "providers": "List the providers: what works, and where keys come from.",
    "models": "List the models of a provider.",
    "doctor": "Check this machine's setup and say what to do about each problem.",
    "config": "Make, show or find the configuration.",
    "trust": "Trust the certificate authority that GigaChat needs.",
    "usage": "Show requests, failures and tokens by day, provider and model.",
    "health": "Show or clear the shared memory of providers in trouble.",
    "sandbox": "Serve all protocols on this machine, with faults on request.",
    "demo": "See it work, with no key and no network.",
}
"""Command -> description; each is ``command`` in the module of its name."""


OPTIONS = {
    "--config FILE": "Configuration to use (LLMPROVIDERS_CONFIG).",
    "--version": "Show the version and exit.",
    "-h, --help": "Show this message and exit.",
}
"""Options before the command -> what they do."""


DOCS = "docs/index.md, README.md"
"""Where the documentation begins, in the repository."""


EXIT_CODES = "docs/reference/cli.md#exit-codes"
"""The page that has every exit code."""


TROUBLESHOOTING = "docs/troubleshooting.md"
"""The page that explains the errors."""


def overview() -> str:
    """What ``llmproviders --help`` prints."""
    return f"""\
Usage: llmproviders [OPTIONS] COMMAND [ARGS]...

  Ask language models from the shell. Where one service fails, the next one
  answers.

  Example: llmproviders ask "Why is the sky blue?"

Options:
{_rows(OPTIONS)}
Commands:
{_rows(COMMANDS)}
Each COMMAND has --help with an example. Exit codes: 0 a whole reply, 3 an
incomplete one, 2 wrong usage, 75 try again later, 77 no key; all of them:
{EXIT_CODES}. Documentation: {DOCS}
"""


def _rows(table: dict[str, str]) -> str:
    width = max(map(len, table))
    return "".join(f"  {name:<{width}}  {text}\n" for name, text in table.items())
