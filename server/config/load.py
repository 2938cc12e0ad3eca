"""Read coffer.toml, and report every problem in it at once with its line and its remedy.

Rule: an unknown key is an error, never ignored; a path in the file is relative to the file. It changes nothing on disk
and does not look whether the archive exists: `config check` must work before `init`.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import inspect

from coffer.keys.errors import ConfigError
from coffer.server.config import toml_lines
from coffer.server.config.find import read_believable, require_outside
from coffer.server.config.settings import (
    AeTitle,
    Config,
    Issuer,
    Keys,
    Peer,
    Pkcs11,
    Region,
    TokenLabel,
    Url,
    VariableName,
)

DEFAULT_ARCHIVE: Final = "archive-data"  # where `make run` puts it
_TOML_LINE = re.compile(r"\(at line (\d+), column \d+\)$")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong in a config file: the line (0: the file as a whole), the cause and what to do."""

    line: int
    cause: str
    remedy: str

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line else ""
        return f"{where}{self.cause}; {self.remedy}"


def load_config(config: Path | None = None, archive: Path | None = None) -> Config:
    """The checked configuration in the file `config`, or the defaults; `archive` goes before the file's own key. Paths
    come back absolute.

    Raises ConfigError naming every problem, that no archive was chosen, or that the file may not be believed.
    """
    if config is None and archive is None:
        raise ConfigError(
            "no archive was chosen", hint="give --archive DIR or --config FILE, or set COFFER_ARCHIVE or COFFER_CONFIG"
        )
    text = "" if config is None else read_text(config)
    loaded, problems = check_text(text, _base(config), archive)
    if problems:
        raise ConfigError(
            "\n".join([f"{config} is not usable", *(f"  {p}" for p in problems)]),
            hint="correct the file; docs/configuration.md lists every key, `coffer config check` checks it again",
        )
    assert loaded is not None
    if config is not None:
        require_outside(config, loaded.archive)
    return loaded


def read_text(source: Path) -> str:
    """The file's text. Raises ConfigError where it cannot be read, others may write it, or it is not UTF-8."""
    try:
        return read_believable(source).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{source} is not UTF-8 text", hint="save the file as UTF-8") from error


def _base(source: Path | None) -> Path:
    return Path.cwd() if source is None else Path(os.path.abspath(source)).parent  # noqa: PTH100  keeps symlinks


def check_text(text: str, base: Path, archive: Path | None = None) -> tuple[Config | None, list[Problem]]:
    """The configuration in `text`, or the problems that keep it from being one, by line. `base` roots its paths."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        at = _TOML_LINE.search(str(error))
        cause = _TOML_LINE.sub("", str(error)).strip()
        last = text.count("\n") + 1
        return None, [Problem(int(at[1]) if at else last, f"not TOML: {cause}", "correct the syntax (toml.io)")]
    checker = _Checker(toml_lines.locate(text), base)
    config = checker.config(data, archive)
    return (None, sorted(checker.problems, key=lambda p: p.line)) if checker.problems else (config, [])


class _Checker:
    """Turns parsed TOML into a Config, collecting problems on the way."""

    def __init__(self, lines: Mapping[toml_lines.KeyPath, int], base: Path) -> None:
        self._lines = lines
        self._base = base
        self.problems: list[Problem] = []

    def config(self, data: dict[str, Any], archive: Path | None) -> Config | None:
        values = self._table(Config, data, ())
        folder = archive or values.get("archive") or Path(DEFAULT_ARCHIVE)
        values["archive"] = self._absolute(Path.cwd() / folder if archive else folder)
        if self.problems:
            return None
        keys: Keys = values.get("keys", Keys())
        if keys.key_file == Path():
            real = Path(os.path.realpath(values["archive"]))  # `init` put it beside the folder, not beside a link to it
            beside = real.with_name(real.name + ".key")
            values["keys"] = msgspec.structs.replace(keys, key_file=beside)
        config = Config(**values)
        self.problems += [Problem(self._line(path), cause, remedy) for path, cause, remedy in _contradictions(config)]
        return config

    def _table(self, table: type[msgspec.Struct], data: dict[str, Any], path: toml_lines.KeyPath) -> dict[str, Any]:
        fields = {f.name: f for f in msgspec.structs.fields(table)}
        values = {}
        for key, raw in data.items():
            here = (*path, key)
            if key not in fields:
                self._unknown(here, list(fields))
                continue
            found = self._value(fields[key], raw, here)
            if found is not None:
                values[key] = found
        for name, one in fields.items():
            if one.required and name not in data and path:
                self._report(path, f"{_dotted(path)} has no {name}", f"add {name} = {example(one.type)}")
        return values

    def _value(self, field: msgspec.structs.FieldInfo, raw: Any, path: toml_lines.KeyPath) -> Any:
        if isinstance(field.default, msgspec.Struct):
            if isinstance(raw, dict):
                values = self._table(type(field.default), raw, path)
                return None if self.problems else type(field.default)(**values)
            self._report(path, f"{_dotted(path)} is a value", f"write it as a table: [{path[-1]}]")
            return None
        if path == ("peers",):
            return self._peers(raw, path)
        if field.default_factory is dict and isinstance(raw, dict):
            return self._by_ae(field, raw, path)
        try:
            value = msgspec.convert(raw, field.type, dec_hook=_path_of)
        except msgspec.ValidationError:
            self._report(path, f"{_dotted(path)} = {_shown(raw)} is not allowed", f"give {allowed(field.type)}")
            return None
        return self._place(value, path) if isinstance(value, Path) else value

    def _place(self, value: Path, path: toml_lines.KeyPath) -> Path | None:
        try:
            return self._absolute(value)
        except (RuntimeError, ValueError):  # the home of an account that there is not
            self._report(path, f"{_dotted(path)} = {str(value)!r} leads nowhere", "give the path of a file or folder")
            return None

    def _by_ae(self, field: msgspec.structs.FieldInfo, raw: dict[str, Any], path: toml_lines.KeyPath) -> Any:
        """A table from AE titles to values, each entry looked at by itself."""
        values = {}
        for name, value in raw.items():
            try:
                values.update(msgspec.convert({name: value}, field.type))
            except msgspec.ValidationError:
                here = (*path, name)
                self._report(here, f"{_dotted(here)} = {_shown(value)} is not allowed", f"give {allowed(field.type)}")
        return values

    def _peers(self, raw: Any, path: toml_lines.KeyPath) -> tuple[Peer, ...] | None:
        if not isinstance(raw, list) or not all(isinstance(one, dict) for one in raw):
            self._report(path, "peers is not a list of tables", "write each peer under its own [[peers]]")
            return None
        tables = [self._table(Peer, one, (*path, number)) for number, one in enumerate(raw)]
        return None if self.problems else tuple(Peer(**one) for one in tables)

    def _absolute(self, path: Path) -> Path:
        return Path(os.path.abspath(self._base / path.expanduser()))  # noqa: PTH100  the link's own name is meant

    def _unknown(self, path: toml_lines.KeyPath, known: list[str]) -> None:
        name = str(path[-1])
        close = difflib.get_close_matches(name, known, 1, 0.6)
        where = f" in [{_dotted(path[:-1])}]" if len(path) > 1 else ""
        remedy = f"did you mean {close[0]}?" if close else f"remove it; known here: {', '.join(known)}"
        self._report(path, f"unknown key {name}{where}", remedy)

    def _report(self, path: toml_lines.KeyPath, cause: str, remedy: str) -> None:
        self.problems.append(Problem(self._line(path), cause, remedy))

    def _line(self, path: toml_lines.KeyPath) -> int:
        while path and path not in self._lines:
            path = path[:-1]
        return self._lines.get(path, 0)


def _contradictions(config: Config) -> Iterator[tuple[toml_lines.KeyPath, str, str]]:
    """Values that are allowed each for itself, but not together."""
    key_file, archive = config.keys.key_file, config.archive
    if Path(os.path.realpath(key_file)).is_relative_to(os.path.realpath(archive)):
        yield (
            ("keys", "key_file"),
            "the key file is inside the archive folder",
            "put it elsewhere, best on another volume: a copy of the archive must not hold its key",
        )
    yield from _key_contradictions(config.keys)
    if config.limits.memory_total_bytes < config.limits.memory_object_bytes:
        yield (
            ("limits", "memory_total_bytes"),
            "limits.memory_total_bytes is below limits.memory_object_bytes",
            f"give at least {config.limits.memory_object_bytes}",
        )
    if config.http.enabled and (config.http.host, config.http.port) == (config.dimse.host, config.dimse.port):
        yield ("http", "port"), "http and dimse listen on the same port", "give http.port another number"
    seen: dict[str, int] = {}
    for number, peer in enumerate(config.peers):
        if peer.ae_title in seen:
            yield (
                ("peers", number, "ae_title"),
                f"a second peer with the AE title {peer.ae_title}",
                "an AE title names one destination: rename or remove one",
            )
        seen.setdefault(peer.ae_title, number)


def _key_contradictions(keys: Keys) -> Iterator[tuple[toml_lines.KeyPath, str, str]]:
    if keys.passphrase_env and keys.passphrase_file:
        yield (
            ("keys", "passphrase_file"),
            "two sources of the passphrase",
            "keep one of passphrase_env, passphrase_file",
        )
    hsm = keys.pkcs11
    if hsm.pin_env and hsm.pin_file:
        yield ("keys", "pkcs11", "pin_file"), "two sources of the PIN", "keep one of pin_env, pin_file"
    if keys.provider == "pkcs11" or hsm != Pkcs11():
        given = {"module": hsm.module != Path(), "token": hsm.token, "pin_env or pin_file": hsm.pin_env or hsm.pin_file}
        for name, there in given.items():
            if not there:
                yield ("keys", "pkcs11"), f"the pkcs11 provider has no {name}", f"add {name} under [keys.pkcs11]"


def _path_of(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, str) and value and "\0" not in value:
        return Path(value)
    raise ValueError("a path is a string that is not empty")


def _dotted(path: toml_lines.KeyPath) -> str:
    return "".join(f"[{p + 1}]" if isinstance(p, int) else f".{p}" for p in path).lstrip(".")


def _shown(raw: Any) -> str:
    shown = repr(raw) if not isinstance(raw, bool) else str(raw).lower()
    return shown if len(shown) <= 60 else shown[:57] + "..."


def allowed(kind: Any) -> str:
    """What a value of an annotated type may be, in words: for remedies and for the reference."""
    return _in_words(inspect.type_info(kind))


def _pattern(info: inspect.Type) -> str:
    assert isinstance(info, inspect.StrType)
    return info.pattern or ""


_WORDS: Final = {
    _pattern(inspect.type_info(kind)): words
    for kind, words in (
        (AeTitle, "1 to 16 characters without backslash"),
        (VariableName, "an environment variable's name"),
        (TokenLabel, "up to 32 characters"),
        (Issuer, "up to 64 characters without backslash"),
        (Region, "an AWS region, for example eu-central-1"),
        (Url, "an http or https URL"),
    )
}


def _in_words(info: inspect.Type) -> str:  # noqa: PLR0911  one line per type is the shortest way to say it
    match info:
        case inspect.Metadata():
            return _in_words(info.type)
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType():
            return f"a whole number from {info.ge} to {info.le}"
        case inspect.FloatType(gt=None):
            return f"a number from {info.ge} to {info.le}"
        case inspect.FloatType():
            return f"a number of seconds above {info.gt} and up to {info.le}"
        case inspect.LiteralType():
            return " or ".join(f'"{v}"' for v in info.values)
        case inspect.StrType(pattern=str(pattern)):
            return _WORDS[pattern]
        case inspect.DictType():
            return f"a table of AE titles, for each {_in_words(info.value_type)}"
        case inspect.StrType():
            return "a host name or an address"
        case _:
            return "a path"


def example(kind: Any) -> str:
    """A value of the kind, as TOML, for the remedy of a missing key."""
    words = allowed(kind)
    return '"PACS"' if "characters" in words else "104" if "number" in words else '"127.0.0.1"'
