"""The examination in its order: what is looked at first explains what follows."""

from pathlib import Path

from coffer.server.checkup.archive import examine_archive
from coffer.server.checkup.host import examine_host
from coffer.server.checkup.neighbours import examine_neighbours
from coffer.server.checkup.result import Report, Result
from coffer.server.config.settings import Config

__all__ = ["examine"]


def examine(config: Config, config_file: Path | None, *, connect: bool) -> list[Result]:
    """Look at host, archive and, with `connect`, at the peers; changes nothing and raises nothing of what it finds."""
    report = Report()
    examine_host(config, config_file, report)
    examine_archive(config, report)
    examine_neighbours(config, report, connect=connect)
    return report.results
