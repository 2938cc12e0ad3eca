"""Fixtures every test folder shares: where the real DICOM files are, and how Hypothesis is bounded."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "suite", max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.register_profile("long", max_examples=5000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real and malformed DICOM files; tests that need it skip, saying so, where it is absent."""
    data = Path(os.environ.get("COFFER_SHARED", ROOT.parent / "shared")) / "data"
    if not (data / "files.csv").is_file():
        pytest.skip(f"no shared DICOM data at {data} (set COFFER_SHARED)")
    return data
