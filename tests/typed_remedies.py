"""The commands that a message names: each must be one that can be typed, with every option that it needs."""

import re
from collections.abc import Iterator

import click

from coffer.server.cli import main

_NAMED = re.compile(r"(?<![\w./-])coffer ((?:[a-z][a-z-]*)(?: [a-z][a-z-]*)*)((?:(?!coffer )[^\n;:.])*)")
_OPTION = re.compile(r"(?<![\w-])--?[a-z][a-z-]*")


def commands_in(text: str) -> Iterator[tuple[str, list[str], str]]:
    """Each command that a text names: its name, the words behind it, and what follows up to the end of the clause."""
    for found in _NAMED.finditer(text):
        words = found[1].split()
        if words[0] in main.commands:
            yield words[0], words[1:], found[2]


def complaint(text: str) -> str | None:
    """What somebody would meet who types a command that the text names; None if each can be typed."""
    for name, words, rest in commands_in(text):
        command, path = main.commands[name], [name]
        while isinstance(command, click.Group) and words and words[0] in command.commands:
            command = command.commands[words[0]]
            path.append(words.pop(0))
        typed = f"coffer {' '.join(path)}"
        options = {option for each in command.params for option in [*each.opts, *each.secondary_opts]}
        given = set(_OPTION.findall(rest))
        if unknown := given - options - {"--help", "--archive", "--config", "--json"}:
            return f"{typed} has no {', '.join(sorted(unknown))}: {text}"
        for each in command.params:
            if isinstance(each, click.Option) and each.required and not given & set(each.opts):
                return f"{typed} needs {each.opts[0]}: {text}"
            if isinstance(each, click.Argument) and each.required and not re.search(r"[A-Z]{2,}|[/<0-9]", rest):
                return f"{typed} needs {each.human_readable_name}: {text}"
    return None
