"""A site: an archive with its key, passphrase, mark and configuration beside it, to be copied and damaged."""

from functools import partial
from pathlib import Path
from typing import Final

import pytest

from coffer.keys.providers.key_file import CHEAPEST_FOR_TESTS, generate_keyfile
from coffer.server.engine import create
from tests.server.filled import run, study_files

CONFIG: Final = """
archive = "archive"

[keys]
passphrase_file = "passphrase"

[integrity]
mark = "mark"
"""


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of one study, whose signing key was rotated once, with everything beside it in one folder."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("coffer.toml").write_text(CONFIG, encoding="utf-8")
        Path("passphrase").write_text("correct horse\n", encoding="utf-8")
        for name in ("coffer.toml", "passphrase"):
            Path(name).chmod(0o600)
        study_files(Path("files"))
        patch.setattr(create, "generate_keyfile", partial(generate_keyfile, cost=CHEAPEST_FOR_TESTS))
        run("init")
        run("put", "files")
        run("keys", "rotate-signing", "--reason", "a test")
    return folder
