"""coffer.toml: every mistake is named with its line and its remedy, and the reference page is the code."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coffer.keys.errors import ConfigError
from coffer.server.config import toml_lines
from coffer.server.config.load import check_text, load_config
from coffer.server.config.reference import configuration_page
from coffer.server.config.settings import Config

ROOT = Path(__file__).resolve().parents[3]
BASE = Path("/etc/coffer")


def tables(root: msgspec.Struct, prefix: str = "") -> Iterator[tuple[str, msgspec.Struct]]:
    """Every table of a configuration with its dotted name."""
    for field in msgspec.structs.fields(type(root)):
        if isinstance(field.default, msgspec.Struct):
            yield prefix + field.name, field.default
            yield from tables(field.default, f"{prefix}{field.name}.")


MISTAKES = {
    "unknown top level": ('archive = "a"\narchve = "b"\n', 2, "unknown key archve", "did you mean archive?"),
    "unknown in table": ("[dimse]\n\nprot = 1\n", 3, "unknown key prot in [dimse]", "did you mean port?"),
    "unknown table": ("\n[metrics]\nport = 1\n", 2, "unknown key metrics", "remove it; known here: archive, dimse"),
    "port too large": ("[dimse]\nport = 65536\n", 2, "dimse.port = 65536", "a whole number from 0 to 65535"),
    "port as text": ('[http]\nport = "11180"\n', 2, "http.port = '11180'", "a whole number from 0 to 65535"),
    "bool as number": ("[dimse]\nport = true\n", 2, "dimse.port = true", "a whole number"),
    "number as bool": ("[dimse]\nknown_peers_only = 1\n", 2, "dimse.known_peers_only = 1", "true or false"),
    "title too long": ('[dimse]\nae_title = "SEVENTEEN_LETTERS"\n', 2, "dimse.ae_title", "1 to 16 characters"),
    "title with backslash": ("[dimse]\nae_title = 'A\\B'\n", 2, "dimse.ae_title", "1 to 16 characters"),
    "title with space before": ("[dimse]\nae_title = ' A'\n", 2, "dimse.ae_title", "1 to 16 characters"),
    "title empty": ('[dimse]\nae_title = ""\n', 2, "dimse.ae_title", "1 to 16 characters"),
    "choice": ('[log]\nformat = "xml"\n', 2, "log.format = 'xml'", '"json" or "text"'),
    "provider": ('[keys]\nprovider = "hsm"\n', 2, "keys.provider", '"file"'),
    "seconds": ("[dimse]\nidle_seconds = 0\n", 2, "dimse.idle_seconds = 0", "a number of seconds above 0"),
    "table as value": ("archive = 'a'\ndimse = 3\n", 2, "dimse is a value", "[dimse]"),
    "peers as table": ("[peers]\nPACS = 1\n", 1, "peers is not a list", "[[peers]]"),
    "peer without port": ("[[peers]]\nae_title = 'A'\nhost = 'h'\n", 1, "peers[1] has no port", "add port ="),
    "second peer": (
        "[[peers]]\nae_title='A'\nhost='h'\nport=1\n[[peers]]\nae_title='B'\nhost='h'\nport=0\n",
        8,
        "peers[2].port = 0",
        "a whole number",
    ),
    "same title twice": (
        "[[peers]]\nae_title='A'\nhost='h'\nport=1\n[[peers]]\nae_title='A'\nhost='g'\nport=1\n",
        6,
        "a second peer has the AE title A",
        "rename or remove one",
    ),
    "empty path": ("archive = ''\n", 1, "archive = ''", "a path"),
    "key inside the archive": (
        "archive = 'a'\n[keys]\nkey_file = 'a/keys/k'\n",
        3,
        "the key file is inside the archive folder",
        "move it elsewhere",
    ),
    "two passphrases": (
        "[keys]\npassphrase_env = 'P'\npassphrase_file = 'p'\n",
        3,
        "the passphrase has two sources",
        "keep one",
    ),
    "two PINs": (
        "[keys.pkcs11]\nmodule = '/m.so'\ntoken = 't'\npin_env = 'P'\npin_file = 'p'\n",
        5,
        "the PIN has two sources",
        "keep one",
    ),
    "no module": (
        "[keys]\nprovider = 'pkcs11'\n[keys.pkcs11]\ntoken = 't'\npin_env = 'P'\n",
        3,
        "the pkcs11 provider has no module",
        "add module under [keys.pkcs11]",
    ),
    "no PIN": ("[keys.pkcs11]\nmodule = '/m.so'\ntoken = 't'\n", 1, "has no pin_env or pin_file", "add pin_env"),
    "PIN in the file": (
        "[keys.pkcs11]\nmodule = '/m.so'\ntoken = 't'\npin_file = 'p'\npin = '1234'\n",
        5,
        "unknown key pin in [keys.pkcs11]",
        "did you mean pin_env?",
    ),
    "region": ("[keys.aws]\nregion = 'Frankfurt'\n", 2, "keys.aws.region = 'Frankfurt'", "for example eu-central-1"),
    "deletion": ("[keys.aws]\ndeletion_days = 1\n", 2, "keys.aws.deletion_days = 1", "from 7 to 30"),
    "budget": (
        "[limits]\nmemory_total_bytes = 1048576\n",
        2,
        "is below limits.memory_object_bytes",
        "at least 67108864",
    ),
    "same port": ("[http]\nport = 11112\n", 2, "are the same port", "another number"),
    "no port": ("[dimse]\nport = 0\n", 2, "dimse listens on no port", "dimse.tls_port a number"),
    "no port for http": ("[http]\nport = 0\n", 2, "http listens on no port", "http.enabled = false"),
    "TLS without files": (
        '[dimse]\ntls_port = 2762\n[tls]\nkey_file = "k"\nca_file = "c"\n',
        3,
        "dimse.tls_port needs [tls] certificate_file",
        "coffer tls init",
    ),
    "a name for nothing": (
        '[[peers]]\nae_title = "P"\nhost = "h"\nport = 104\ntls_name = "h"\n',
        1,
        "is not called with TLS",
        "add tls = true",
    ),
    "users inside the archive": (
        "archive = 'a'\n[access]\nusers = 'a/users.toml'\n",
        3,
        "the file of users is inside the archive folder",
        "move it elsewhere",
    ),
    "keys of nobody": ("[access]\njwks = 'keys.json'\n", 2, "without access.token_issuer", "add token_issuer"),
    "syntax": ("[dimse]\nport = \n", 2, "not TOML", "correct the syntax"),
    "key twice": ("[dimse]\nport = 1\nport = 2\n", 3, "not TOML", "correct the syntax"),
    "end of file": ("archive = '''a\n\n", 3, "not TOML", "correct the syntax"),
    "dotted key": ("dimse.port = -1\n", 1, "dimse.port = -1", "a whole number"),
    "inline table": ("http = { port = -1 }\n", 1, "http.port = -1", "a whole number"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_every_mistake_has_its_line_and_its_remedy(name: str) -> None:
    text, line, cause, remedy = MISTAKES[name]
    config, problems = check_text(text, BASE)
    assert config is None
    assert len(problems) == 1, problems
    assert problems[0].line == line
    assert cause in problems[0].cause
    assert remedy in problems[0].remedy


def test_users_lie_beside_the_configuration_or_else_beside_the_archive(tmp_path: Path) -> None:
    file = tmp_path / "etc" / "coffer.toml"
    file.parent.mkdir()
    file.write_text("archive = '../data'\n")
    assert load_config(file).access.users == file.with_name("users.toml")
    assert load_config(file, tmp_path / "other").access.users == file.with_name("users.toml")
    assert load_config(None, tmp_path / "data").access.users == tmp_path / "data.users.toml"
    file.write_text("[access]\nusers = 'staff.toml'\n")
    assert load_config(file).access.users == file.with_name("staff.toml")


def test_all_mistakes_come_at_once_in_the_order_of_their_lines() -> None:
    text = "[log]\nlevel = 'loud'\n[dimse]\nport = -1\nprot = 1\n[[peers]]\nhost = 'h'\n"
    _, problems = check_text(text, BASE)
    assert [p.line for p in problems] == [2, 4, 5, 6, 6]


def test_defaults_and_paths() -> None:
    config, problems = check_text("", BASE)
    assert problems == []
    assert config is not None
    assert config.archive == BASE / "archive-data"
    assert config.keys.key_file == BASE / "archive-data.key"
    assert (config.dimse.host, config.dimse.port, config.http.port) == ("127.0.0.1", 11112, 11180)
    config, _ = check_text("archive = 'data'\n[keys]\nkey_file = '../k'\npassphrase_file = 'p'\n", BASE)
    assert config is not None
    assert (config.archive, config.keys.key_file) == (BASE / "data", Path("/etc/k"))
    assert config.keys.passphrase_file == BASE / "p"


def test_the_chosen_archive_goes_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text("archive = 'one'\n[dimse]\nport = 104\n")
    assert load_config(file).archive == tmp_path / "one"
    both = load_config(file, tmp_path / "two")
    assert (both.archive, both.dimse.port) == (tmp_path / "two", 104)


def test_a_home_that_there_is_not_is_a_problem_with_its_line() -> None:
    config, problems = check_text("[keys]\nkey_file = '~no-such-user/x'\n", BASE)
    assert config is None
    assert [(p.line, p.cause) for p in problems] == [(2, "keys.key_file = '~no-such-user/x' leads nowhere")]


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no archive was chosen"):
        load_config()
    with pytest.raises(ConfigError, match=r"cannot read the config file .*: No such file"):
        load_config(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b"archive = '\xe4'")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(tmp_path / "latin.toml")
    (tmp_path / "bom.toml").write_bytes(b"\xef\xbb\xbf[dimse]\nport = 104\n")
    assert load_config(tmp_path / "bom.toml").dimse.port == 104
    (tmp_path / "bad.toml").write_text("x = 1\n")
    with pytest.raises(ConfigError, match=r"(?s)bad.toml is not usable.*line 1: unknown key x") as caught:
        load_config(tmp_path / "bad.toml")
    assert "docs/configuration.md" in caught.value.hint()


def test_lines_inside_strings_and_arrays_are_no_keys() -> None:
    text = 'archive = """\n[dimse]\nport = 1\n"""\nx = [\n  "[http]", # ]\n  1\n]\n[dimse]\nport = 2\n'
    lines = toml_lines.locate(text)
    assert lines["dimse",] == 9
    assert lines["dimse", "port"] == 10
    assert ("http",) not in lines


@given(st.text(max_size=200))
def test_any_text_gets_a_configuration_or_a_problem(text: str) -> None:
    config, problems = check_text(text, BASE)
    assert (config is None) == bool(problems)
    assert all(p.cause and p.remedy for p in problems)


@given(st.lists(st.sampled_from(['"', "'", '"""', "'''", "[", "]", "a = ", "[[a]]", "#", "\n", "\\"]), max_size=40))
def test_the_locator_takes_any_text(parts: list[str]) -> None:
    toml_lines.locate("".join(parts))


def test_the_reference_page_is_rendered_from_the_code() -> None:
    assert (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8") == configuration_page(), (
        "run: python -m coffer.server.cli.reference docs"
    )


def test_every_key_is_on_the_page() -> None:
    page = configuration_page()
    for name, table in tables(Config(archive=BASE)):
        assert f"## `[{name}]`" in page
        for field in msgspec.structs.fields(type(table)):
            assert isinstance(field.default, msgspec.Struct) or f"| `{field.name}` |" in page


def test_every_default_is_allowed() -> None:
    config, _ = check_text("", BASE)
    assert config is not None
    text = ["archive = '/a'"]
    for name, table in tables(config):
        text.append(f"[{name}]")
        for key, value in msgspec.to_builtins(table, enc_hook=str).items():
            if value is not None and not isinstance(value, dict) and key not in {"key_file", "module"}:
                text.append(f"{key} = {str(value).lower() if isinstance(value, bool) else repr(value)}")
    again, problems = check_text("\n".join(text), BASE)
    assert problems == []
    assert again is not None
    assert again.dimse == config.dimse


def test_rules_by_ae_title_are_checked_one_by_one() -> None:
    text = (
        '[patients]\ndefault_issuer = "HOSPITAL"\ndefault_issuer_by_ae = { CT1 = "WARD" }\n'
        '[versions.serve_by_ae]\nGATEWAY = "first"\n'
    )
    config, problems = check_text(text, Path("/base"))
    assert config is not None
    assert problems == []
    assert (config.patients.default_issuer_by_ae, config.versions.serve_by_ae) == (
        {"CT1": "WARD"},
        {"GATEWAY": "first"},
    )
    wrong = '[patients]\ndefault_issuer = " X"\n[versions]\nserve = "oldest"\n'
    wrong += '[versions.serve_by_ae]\nA = "last"\nB = "first"\n'
    config, problems = check_text(wrong, Path("/base"))
    assert config is None
    assert [problem.line for problem in problems] == [2, 4, 6]
    assert "versions.serve_by_ae.A" in problems[2].cause
