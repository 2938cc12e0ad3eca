"""Read coffer.toml, and report all of its problems at once, each with its line and remedy.

Rule: an unknown key is an error, never ignored; a path in the file is relative to the file. It changes nothing on disk
and does not check whether the archive exists: `config check` must work before `init`.
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

from coffer.keys.errors import ConfigError
from coffer.server.config import toml_lines
from coffer.server.config.access import Access
from coffer.server.config.allowed_values import allowed, example
from coffer.server.config.find import read_believable, require_outside
from coffer.server.config.providers import Pkcs11
from coffer.server.config.settings import Config, Keys, Peer

DEFAULT_ARCHIVE: Final = "archive-data"  # where `make run` puts it
_TOML_LINE = re.compile(r"\(at line (\d+), column \d+\)$")


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem in a config file: the line (0: the file as a whole), the cause and the remedy."""

    line: int
    cause: str
    remedy: str

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line else ""
        return f"{where}{self.cause}; {self.remedy}"


def load_config(config: Path | None = None, archive: Path | None = None) -> Config:
    """The checked configuration in the file `config`, or the defaults; `archive` overrides the file's own key. Paths
    in the result are absolute.

    Raises ConfigError naming every problem, or if no archive was chosen, or if the file must not be trusted.
    """
    if config is None and archive is None:
        raise ConfigError(
            "no archive was chosen", hint="give --archive DIR or --config FILE, or set COFFER_ARCHIVE or COFFER_CONFIG"
        )
    text = "" if config is None else read_text(config)
    loaded, problems = check_text(text, _base(config), archive, is_file=config is not None)
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
    """The file's text. Raises ConfigError if it cannot be read, others may write it, or it is not UTF-8."""
    try:
        return read_believable(source).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{source} is not UTF-8 text", hint="save the file as UTF-8") from error


def _base(source: Path | None) -> Path:
    return Path.cwd() if source is None else Path(os.path.abspath(source)).parent  # noqa: PTH100  keeps symlinks


def check_text(
    text: str, base: Path, archive: Path | None = None, *, is_file: bool = True
) -> tuple[Config | None, list[Problem]]:
    """The configuration in `text`, or its problems by line. Relative paths are relative to `base`, where the file of
    users is, too; without a config file (`is_file`) it is beside the archive folder."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        at = _TOML_LINE.search(str(error))
        cause = _TOML_LINE.sub("", str(error)).strip()
        last = text.count("\n") + 1
        return None, [Problem(int(at[1]) if at else last, f"not TOML: {cause}", "correct the syntax (toml.io)")]
    checker = _Checker(toml_lines.locate(text), base)
    config = checker.config(data, archive, is_file=is_file)
    return (None, sorted(checker.problems, key=lambda p: p.line)) if checker.problems else (config, [])


class _Checker:
    """Turns parsed TOML into a Config and collects the problems."""

    def __init__(self, lines: Mapping[toml_lines.KeyPath, int], base: Path) -> None:
        self._lines = lines
        self._base = base
        self.problems: list[Problem] = []

    def config(self, data: dict[str, Any], archive: Path | None, *, is_file: bool) -> Config | None:
        values = self._table(Config, data, ())
        folder = archive or values.get("archive") or Path(DEFAULT_ARCHIVE)
        values["archive"] = self._absolute(Path.cwd() / folder if archive else folder)
        if self.problems:
            return None
        keys: Keys = values.get("keys", Keys())
        if keys.key_file == Path():
            real = Path(os.path.realpath(values["archive"]))  # `init` puts it beside the folder, not beside a link
            beside = real.with_name(real.name + ".key")
            values["keys"] = msgspec.structs.replace(keys, key_file=beside)
        access: Access = values.get("access", Access())
        if access.users == Path():
            real = Path(os.path.realpath(values["archive"]))
            users = self._base / "users.toml" if is_file else real.with_name(real.name + ".users.toml")
            values["access"] = msgspec.structs.replace(access, users=users)
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
        except (RuntimeError, ValueError):  # `~name` of an account that does not exist
            self._report(path, f"{_dotted(path)} = {str(value)!r} leads nowhere", "give the path of a file or folder")
            return None

    def _by_ae(self, field: msgspec.structs.FieldInfo, raw: dict[str, Any], path: toml_lines.KeyPath) -> Any:
        """A table from AE titles to values, with each entry checked separately."""
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
        return Path(os.path.abspath(self._base / path.expanduser()))  # noqa: PTH100  a link's own name is meant

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
    """Values that are allowed individually, but not together."""
    key_file, archive = config.keys.key_file, config.archive
    if Path(os.path.realpath(key_file)).is_relative_to(os.path.realpath(archive)):
        yield (
            ("keys", "key_file"),
            "the key file is inside the archive folder",
            "move it elsewhere, preferably to another volume: a copy of the archive must not contain its key",
        )
    mark = config.integrity.mark
    if mark != Path() and Path(os.path.realpath(mark)).is_relative_to(os.path.realpath(archive)):
        yield (
            ("integrity", "mark"),
            "the mark is inside the archive folder",
            "move it elsewhere, preferably to another volume: whoever writes the archive must not write it",
        )
    yield from _access_contradictions(config)
    yield from _key_contradictions(config.keys)
    if config.backup.keep_keys_days > config.keys.shred_hold_days:
        yield (
            ("backup", "keep_keys_days"),
            "backup.keep_keys_days is above keys.shred_hold_days",
            f"give at most {config.keys.shred_hold_days}: an older copy would open what certificates call erased",
        )
    if config.limits.memory_total_bytes < config.limits.memory_object_bytes:
        yield (
            ("limits", "memory_total_bytes"),
            "limits.memory_total_bytes is below limits.memory_object_bytes",
            f"give at least {config.limits.memory_object_bytes}",
        )
    yield from _port_contradictions(config)
    yield from _tls_contradictions(config)
    seen: dict[str, int] = {}
    for number, peer in enumerate(config.peers):
        if peer.ae_title in seen:
            yield (
                ("peers", number, "ae_title"),
                f"a second peer has the AE title {peer.ae_title}",
                "an AE title names one destination: rename or remove one of them",
            )
        seen.setdefault(peer.ae_title, number)


def _access_contradictions(config: Config) -> Iterator[tuple[toml_lines.KeyPath, str, str]]:
    access = config.access
    if Path(os.path.realpath(access.users)).is_relative_to(os.path.realpath(config.archive)):
        yield (
            ("access", "users"),
            "the file of users is inside the archive folder",
            "move it elsewhere: whoever can write the archive must not decide who may read it",
        )
    if access.jwks is not None and not access.token_issuer:
        yield (
            ("access", "jwks"),
            "access.jwks is given without access.token_issuer",
            "add token_issuer: a token of another issuer that uses the same key must not be accepted",
        )


def _port_contradictions(config: Config) -> Iterator[tuple[toml_lines.KeyPath, str, str]]:
    if not config.dimse.port and not config.dimse.tls_port:
        yield ("dimse", "port"), "dimse listens on no port", "give dimse.port or dimse.tls_port a number"
    if config.http.enabled and not config.http.port and not config.http.tls_port:
        yield ("http", "port"), "http listens on no port", "give http.port a number, or set http.enabled = false"
    taken: dict[tuple[str, int], str] = {}
    doors = (("dimse", config.dimse), *((("http", config.http),) if config.http.enabled else ()))
    for name, door in doors:
        for key, port in (("port", door.port), ("tls_port", door.tls_port)):
            other = taken.setdefault((door.host, port), f"{name}.{key}")
            if port and other != f"{name}.{key}":
                yield (name, key), f"{name}.{key} and {other} are the same port", f"give {name}.{key} another number"


def _tls_contradictions(config: Config) -> Iterator[tuple[toml_lines.KeyPath, str, str]]:
    """TLS that is used needs its files; callers that must prove who they are need an authority."""
    users = [*(["dimse.tls_port"] if config.dimse.tls_port else [])]
    users += ["http.tls_port"] if config.http.enabled and config.http.tls_port else []
    users += [f"peer {peer.ae_title}" for peer in config.peers if peer.tls]
    for key in ("certificate_file", "key_file", "ca_file"):
        if users and getattr(config.tls, key) == Path():
            yield (
                ("tls",),
                f"{users[0]} needs [tls] {key}",
                f"add {key} under [tls]; `coffer tls init` makes files for a first try",
            )
    for number, peer in enumerate(config.peers):
        if not peer.tls and (peer.tls_name or peer.tls_spki_sha256):
            yield (
                ("peers", number),
                f"peer {peer.ae_title} says what its certificate must be, and is not called with TLS",
                "add tls = true, or remove tls_name and tls_spki_sha256",
            )


def _key_contradictions(keys: Keys) -> Iterator[tuple[toml_lines.KeyPath, str, str]]:
    if keys.passphrase_env and keys.passphrase_file:
        yield (
            ("keys", "passphrase_file"),
            "the passphrase has two sources",
            "keep one of passphrase_env, passphrase_file",
        )
    hsm = keys.pkcs11
    if hsm.pin_env and hsm.pin_file:
        yield ("keys", "pkcs11", "pin_file"), "the PIN has two sources", "keep one of pin_env, pin_file"
    if keys.provider == "pkcs11" or hsm != Pkcs11():
        given = {"module": hsm.module != Path(), "token": hsm.token, "pin_env or pin_file": hsm.pin_env or hsm.pin_file}
        for name, there in given.items():
            if not there:
                yield ("keys", "pkcs11"), f"the pkcs11 provider has no {name}", f"add {name} under [keys.pkcs11]"


def _path_of(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, str) and value and "\0" not in value:
        return Path(value)
    raise ValueError("a path is a non-empty string")


def _dotted(path: toml_lines.KeyPath) -> str:
    return "".join(f"[{p + 1}]" if isinstance(p, int) else f".{p}" for p in path).lstrip(".")


def _shown(raw: Any) -> str:
    shown = repr(raw) if not isinstance(raw, bool) else str(raw).lower()
    return shown if len(shown) <= 60 else shown[:57] + "..."
