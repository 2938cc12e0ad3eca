"""The golden index is written byte for byte as before and is read by a second reader made from FORMAT.md alone."""

import json
from pathlib import Path

import pytest

from tests.vectors import make_index, reader_index


def test_the_golden_index_is_written_as_before(tmp_path: Path) -> None:
    assert make_index.make(tmp_path / "index") == json.loads(make_index.OUT.read_text())


def test_the_second_reader_reads_it() -> None:
    golden = json.loads(make_index.OUT.read_text())
    keys = bytes.fromhex(golden["token_key"]), bytes.fromhex(golden["row_key"])
    study, series, instance = reader_index.read(golden["tables"], *keys, make_index.ARCHIVE_ID, make_index.SOP)
    assert study[:2] == ["1.2", make_index.KEY_ID]
    assert study[2][0] == {0x00100010: ["Doe^Jane"], 0x00100020: ["P1"]}
    assert study[3:6] == [1, 1, ["CT"]]
    assert series[0] == "1.2.3"
    assert instance[0] == make_index.SOP
    assert instance[3][0][:5] == [0, 1, 256, 4096, bytes([3]) * 32]
    with pytest.raises(ValueError, match="commitment"):
        reader_index.read(golden["tables"], *keys, bytes(16), make_index.SOP)
