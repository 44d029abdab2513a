"""The command ``unisat``: it trains models as recipes describe them.

unisat pretrain --config recipes/sat-1.toml --set optimizer.steps=100
unisat xvector --config recipes/sat-xvector.toml
unisat ctc --config recipes/sat-ctc.toml
unisat diarization --config recipes/sat-diarization.toml
"""

from __future__ import annotations

import argparse
import os
import sys
import tomllib
from collections.abc import Sequence
from typing import Any


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; a user's mistake gives one line on standard error and exit status 2."""
    parser = argparse.ArgumentParser(prog="unisat", description="UniSpeech-SAT, taken apart and trained.")
    commands = parser.add_subparsers(dest="command", required=True)
    about = {
        "pretrain": "pretrain a model, from targets to weights; continue an earlier run that stopped",
        "xvector": "train a speaker embedding on a pretrained model",
        "ctc": "train a pretrained model to spell",
        "diarization": "train a pretrained model to say who of two speaks when",
    }
    for name, text in about.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--config", required=True, metavar="FILE", help="a recipe in TOML")
        command.add_argument(
            "--set",
            action="append",
            default=[],
            type=_setting,
            metavar="KEY=VALUE",
            help="change a value of the recipe",
        )
        if name == "pretrain":
            command.add_argument("--fresh", action="store_true", help="refuse to continue from a checkpoint")
    options = parser.parse_args(arguments)
    try:
        if options.command == "pretrain":
            from unisat.training import loop, recipe

            model = loop.pretrain(recipe.read(options.config, dict(options.set)), fresh=options.fresh)
        else:
            from unisat.training import heads, recipe

            model = heads.train(options.command, recipe.read(options.config, dict(options.set), heads.HeadRecipe))
    except (ValueError, OSError, FloatingPointError, ImportError) as error:
        parser.exit(2, f"unisat {options.command}: {error}\n")
    if os.environ.get("RANK", "0") == "0":  # of several processes the first speaks for all
        sys.stdout.write(f"{model}\n")


def _setting(text: str) -> tuple[str, Any]:
    """Split ``optimizer.steps=100`` into a name and a value; a value that is not TOML stays a string."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE; write it like optimizer.steps=100")
    try:
        return name, tomllib.loads(f"value = {value}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        return name, value
