"""Render docs/configuration.md from the settings' own types, defaults and descriptions.

Rule: the tables hold nothing that is not in `server.config.settings`; a test compares the page with them.
"""

from pathlib import Path
from typing import Any, get_args, get_origin

import msgspec
from msgspec import NODEFAULT, Meta, Struct

from coffer.server.config.allowed_values import allowed
from coffer.server.config.settings import Config, Peer

_INTRODUCTION = """# Configuration

Coffer reads one file, `coffer.toml`, in [TOML](https://toml.io): the one that `--config` or `COFFER_CONFIG` names, or
else the first that exists of `./coffer.toml`, `$XDG_CONFIG_HOME/coffer/coffer.toml` (by default
`~/.config/coffer/coffer.toml`) and `/etc/coffer/coffer.toml`. Every key is optional, except those of a peer; without a
file the defaults apply. Relative paths are relative to the folder of the file.

The file names libraries to load and keys to use, so it is trusted only if nobody else can have written it: it and its
folder must belong to root or to the account that runs Coffer, and must not be writable by anyone else (a group whose
only member is that account may write). **No file is taken from an archive folder**, which may be on disks and shares of
others: a `coffer.toml` in there is ignored and reported by `coffer verify`, `coffer status` and `/readyz`.

An unknown key is an error. `coffer config check` reports every problem with its line and the remedy; the server checks
the same before it starts. A change needs a restart.
"""


def configuration_page() -> str:
    """The whole page, ending in one newline."""
    sections = [_INTRODUCTION, _section("Top level", Config)]
    for field in msgspec.structs.fields(Config):
        if isinstance(field.default, Struct):
            sections += _tables(field.name, type(field.default))
        elif field.name == "peers":
            sections.append(_section("`[[peers]]`", Peer))
    return "\n".join(sections)


def _tables(name: str, table: type[Struct]) -> list[str]:
    """The table's section and those of the tables in it."""
    sections = [_section(f"`[{name}]`", table)]
    for field in msgspec.structs.fields(table):
        if isinstance(field.default, Struct):
            sections += _tables(f"{name}.{field.name}", type(field.default))
    return sections


def _section(title: str, table: type[Struct]) -> str:
    lines = [
        f"## {title}",
        "",
        (table.__doc__ or "").strip(),
        "",
        "| Key | Default | Allowed | Meaning |",
        "|---|---|---|---|",
    ]
    for field in msgspec.structs.fields(table):
        if field.name != "peers" and not isinstance(field.default, Struct):
            meta = _meta(field.type, table, field.name)
            default = (meta.extra or {}).get("default") or ("none" if _is_map(field) else _default(field.default))
            lines.append(f"| `{field.name}` | {default} | {allowed(field.type)} | {meta.description} |")
    return "\n".join([*lines, ""])


def _meta(kind: Any, table: type[Struct], name: str) -> Meta:
    """The Meta with a description among a field's annotations."""
    annotated = table.__annotations__.get(name, kind)
    for one in get_args(annotated):
        if isinstance(one, Meta) and one.description:
            return one
    raise AssertionError(f"{table.__name__}.{name} has no description (its type is {get_origin(annotated)})")


def _is_map(field: msgspec.structs.FieldInfo) -> bool:
    return field.default_factory is dict


def _default(value: Any) -> str:
    match value:
        case _ if value is NODEFAULT:
            return "none, must be given"
        case bool():
            return f"`{str(value).lower()}`"
        case int() if value >= 1 << 30:
            return f"`{value}` ({value >> 30} GiB)"
        case int() if value >= 1 << 20:
            return f"`{value}` ({value >> 20} MiB)"
        case str() | Path():
            return f'`"{value}"`'
        case _:
            return f"`{value}`"
