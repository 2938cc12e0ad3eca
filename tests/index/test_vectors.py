"""The golden index is written byte for byte as before and is read by a second reader made from FORMAT.md alone."""

import hmac
import json
import re
from pathlib import Path

import pytest

from coffer.index.instance.identity import Rules
from tests.vectors import make_index, reader_index


def test_the_golden_index_is_written_as_before(tmp_path: Path) -> None:
    assert make_index.make(tmp_path / "index") == json.loads(make_index.OUT.read_text())


def test_the_second_reader_reads_it() -> None:
    golden = json.loads(make_index.OUT.read_text())
    keys = bytes.fromhex(golden["token_key"]), bytes.fromhex(golden["row_key"])
    study, series, instance = reader_index.read(golden["tables"], *keys, make_index.ARCHIVE_ID, make_index.SOP)
    assert study[:2] == [["1.2", "P1", "", ""], make_index.KEY_ID]
    assert study[2][0] == {0x00100010: ["Doe^Jane"], 0x00100020: ["P1"]}
    assert study[3:11] == [1, 1, 1, 0, {"CT": 1}, {"1.2.840.10008.5.1.4.1.1.2": 1}, False, 1]
    assert series[0] == "1.2.3"
    assert instance[0] == make_index.SOP
    assert instance[2:4] == [study[2][0], {0x00080060: ["CT"]}]
    assert instance[5][0][:7] == [0, 0, 1, 256, 4096, 1_700_000_000_001, bytes([3]) * 32]
    assert instance[5][0][12:] == [None, "SCU", True, b"", b""]
    assert instance[6] is True
    assert reader_index.skipped(golden["tables"]) == [(0, 3), (0, 5), (0, 6), (2, 7)]
    assert reader_index.applied(golden["tables"]) == {
        0: (1, bytes([4]) * 32, (0, 1, 256, bytes([3]) * 32)),
        2: (9, bytes([6]) * 32, None),
    }
    uids, meta = golden["tables"]["uid"], golden["tables"]["meta"]
    for token in (reader_index.part_token(keys[0], *study[0]), reader_index.token(keys[0], "study", study[0][0])):
        assert uids[token.hex()] == (1).to_bytes(8, "big").hex()
    assert bytes.fromhex(meta[b"rules".hex()]) == reader_index.rules_digest("", {}, "newest", {})
    assert Rules("H", {"B": "K", "A": "Ä"}, "first", {"C": "newest"}).digest == reader_index.rules_digest(
        "H", {"A": "Ä", "B": "K"}, "first", {"C": "newest"}
    )
    sums = bytes.fromhex(golden["sum_rows"]), bytes.fromhex(golden["sum_mask"])
    reader_index.check_sum(golden["tables"], *sums)
    for wrong in ((sums[0], bytes(32)), (bytes(32), sums[1])):
        with pytest.raises(ValueError, match="sum"):
            reader_index.check_sum(golden["tables"], *wrong)
    meta[b"epoch".hex()] = (4).to_bytes(8, "big").hex()
    with pytest.raises(ValueError, match="sum"):
        reader_index.check_sum(golden["tables"], *sums)
    with pytest.raises(ValueError, match="commitment"):
        reader_index.read(golden["tables"], *keys, bytes(16), make_index.SOP)


PAGE = (Path(make_index.__file__).parents[2] / "index" / "FORMAT.md").read_text(encoding="utf-8")


def columns(title: str) -> dict[str, str]:
    """The rows of the page's table whose header begins with `title`, first cell to last."""
    lines = PAGE[PAGE.index(f"\n| {title} |") + 1 :].split("\n\n", 1)[0].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return {cells[0].split()[0].strip("`"): cells[-1] for cells in rows}


def test_the_worked_example_of_the_page_is_that_of_the_golden_index() -> None:
    golden = json.loads(make_index.OUT.read_text())
    tables, token_key, row_key = golden["tables"], *(bytes.fromhex(golden[k]) for k in ("token_key", "row_key"))
    block = re.search(r"```\n(uid .*?)```", PAGE, re.DOTALL)
    assert block is not None
    uid, instance, opened = block[1].splitlines()
    found = re.fullmatch(
        r'uid +(\d\d) ‖ HMAC-SHA-256\(k_token, \1 ‖ "([\d.]+)"\)\[:16\] +-> +([0-9a-f ]+)', uid.rstrip()
    )
    assert found is not None
    kind, sop, reference = found.groups()
    message = bytes.fromhex(kind) + sop.encode()
    key = message[:1] + hmac.digest(token_key, message, "sha256")[:16]
    assert tables["uid"][key.hex()] == reference.replace(" ", "")
    assert instance.split(" -> ")[0].split()[1:] == reference.split()
    assert instance.endswith("study key id (16) ‖ sealed row")
    value = bytes.fromhex(tables["instance"][reference.replace(" ", "")])
    assert value[:16] == make_index.KEY_ID
    place = bytes.fromhex(reference.replace(" ", ""))
    context = b"coffer/index-row/v1\0" + make_index.ARCHIVE_ID + place
    plain = reader_index.open_sealed(row_key, context, value[16:])
    told = re.fullmatch(r"sealed row, .* -> +([0-9a-f]{8}) ‖ msgpack \((\d+) bytes\) ‖ zeros to (\d+)", opened.rstrip())
    assert told is not None
    length = int(told[2])
    assert plain[:4].hex() == told[1] == f"{length:08x}"
    assert (len(plain), plain[4 + length :].strip(b"\0")) == (int(told[3]), b"")


def test_the_tables_of_the_page_are_those_of_the_golden_index() -> None:
    golden = json.loads(make_index.OUT.read_text())
    tables = golden["tables"]
    assert set(columns("database")) == set(tables)
    assert set(columns("key")) == {bytes.fromhex(key).decode() for key in tables["meta"]}
    keys = bytes.fromhex(golden["token_key"]), bytes.fromhex(golden["row_key"])
    study, series, instance = reader_index.read(tables, *keys, make_index.ARCHIVE_ID, make_index.SOP)
    said = {name: len(cells.split(", ")) for name, cells in columns("row").items()}
    rows = {
        "study": study,
        "series": series,
        "instance": instance,
        "merged": study[2],
        "part": study[0],
        "version": instance[5][0],
        "order": study[2][2],
    }
    assert said == {name: len(row) for name, row in rows.items()}
    sizes = {int(n) for n in re.findall(r"\d+", columns("database")["uid"])}
    assert {len(value) // 2 for value in tables["uid"].values()} == sizes
    token = re.search(r"token \((\d+)\)", PAGE)
    assert token is not None
    assert {len(key) // 2 for key in tables["uid"]} == {int(token[1])}
