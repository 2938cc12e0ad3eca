"""Whether pixels are coded by the compiled library is told: by `coffer status`, in the log and as a metric."""

import json
from pathlib import Path

import pytest

from coffer.archive.codec import choice
from coffer.server.config.load import load_config
from coffer.server.main import service
from tests.archive.codec.both import compiled
from tests.captured_logs import capture_logs
from tests.server.filled import free_port, run


@pytest.mark.parametrize("why", ["", "its library cannot be loaded on this machine"])
def test_who_codes_pixels_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("coffer.toml").write_text(
        f'archive = "data"\n[storage]\nreserve_bytes = 0\n[dimse]\nport = {free_port()}\n[http]\nport = {free_port()}\n'
    )
    run("init")
    if why:
        monkeypatch.setattr(choice, "why_pure", lambda: why)
        monkeypatch.setattr(service, "why_pure", lambda: why)
    else:
        compiled()
    with capture_logs() as lines, service.Server(load_config(Path("coffer.toml"))) as server:
        metrics = server._metrics.render().decode()
    assert f"coffer_codec_compiled {0.0 if why else 1.0}" in metrics
    told = [(each["cause"], each["remedy"]) for each in lines if each["name"] == "codec.not_compiled"]
    assert told == ([(why, choice.REMEDY)] if why else [])
    shown = run("status").stdout
    assert (f"numpy, slower: {why}; {choice.REMEDY}" if why else "compiled") in " ".join(shown.split())
    assert json.loads(run("status", "--json").stdout)["codec"] == ("numpy" if why else "compiled")
