"""Turn the lines of a measurement into markdown tables: medians, ranges and ratios. Pure: rows in, text out."""

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

CORPORA = {
    "ct": "CT 512x512, 525 KB",
    "tiny": "structured report, 7.7 KB",
    "mf": "enhanced MR, 67 MB, 1 object",
    "real-ct": "real CT series, 532 KB",
    "real-mr": "real MR series, 140 KB",
}
QUERIES = {
    "patient_id": "by Patient ID",
    "accession": "by Accession Number",
    "study_uid": "by Study Instance UID",
    "date_range_day": "one day",
    "date_range_month": "one month",
    "name_prefix": "name `SMI*`",
    "name_infix": "name `*MIT*`",
    "modality_day": "modality and day",
    "modality": "modality alone",
}
ORTHANC, COFFER = "orthanc+nd", "coffer"
NAMES = {ORTHANC: "Orthanc", "storescp-pdu128k+nd": "storescp", "dcmqrscp+nd": "dcmqrscp", COFFER: "**Coffer**"}


def figure(value: float | None) -> str:
    """A number with three significant digits at most, and no digits that say nothing."""
    if value is None:
        return "–"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A markdown table, its first column aligned left."""
    lines = ["| " + " | ".join(head) + " |", "|---" + "|--:" * (len(head) - 1) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


class Figures:
    """The lines of one measurement, asked by bench, peer and what was measured."""

    def __init__(self, rows: Sequence[dict[str, Any]]) -> None:
        self.rows = rows

    def values(self, key: str, **where: object) -> list[float]:
        """All values of `key` in the rows that match."""
        hit = (r for r in self.rows if all(r.get(k) == v for k, v in where.items()))
        return [r[key] for r in hit if r.get(key) is not None]

    def median(self, key: str, **where: object) -> float | None:
        """The median, or None where nothing was measured."""
        values = self.values(key, **where)
        return statistics.median(values) if values else None

    def spread(self, key: str, **where: object) -> str:
        """Median with the range of the runs."""
        values = self.values(key, **where)
        if len(values) < 2:
            return figure(self.median(key, **where))
        return f"{figure(statistics.median(values))} ({figure(min(values))}–{figure(max(values))})"

    def peers(self, **where: object) -> list[str]:
        """Peers that appear, in the order of the run."""
        return list(dict.fromkeys(r["peer"] for r in self.rows if all(r.get(k) == v for k, v in where.items())))

    def errors(self) -> list[str]:
        """What went wrong, so that no gap in a table stays unexplained."""
        keys = ("bench", "peer", "corpus", "assoc", "query")
        found = [(r, str(r["error"])) for r in self.rows if r.get("error")]
        failed = [(r, f"{r['failed']} instances refused") for r in self.rows if r.get("failed")]
        return [" ".join(str(r[k]) for k in keys if k in r) + ": " + text[:200] for r, text in found + failed]

    def ratio(self, key: str, better_is_more: bool = True, **where: object) -> str:
        """How many times better Coffer is than Orthanc; below 1 it is worse."""
        ours, theirs = self.median(key, peer=COFFER, **where), self.median(key, peer=ORTHANC, **where)
        if not ours or not theirs:
            return "–"
        return f"{figure(ours / theirs if better_is_more else theirs / ours)}×"


def store_table(f: Figures) -> str:
    """C-STORE: every corpus, number of associations and peer."""
    rows = []
    for corpus, label in CORPORA.items():
        for assoc in (1, 4):
            where = {"bench": "store", "corpus": corpus, "assoc": assoc}
            for peer in f.peers(**where):
                one = {**where, "peer": peer}
                against = f.ratio("inst_s", **where) if peer == COFFER else ""
                rows.append(
                    (
                        label,
                        str(assoc),
                        NAMES.get(peer, peer),
                        f.spread("inst_s", **one),
                        figure(f.median("mb_s", **one)),
                        figure(f.median("server_cpu_ms", **one)),
                        figure(f.median("p99_ms", **one)),
                        figure(f.median("rss_peak_mb", **one) or None),
                        figure(f.median("stored_ratio", **one)),
                        against,
                    )
                )
    head = (
        "C-STORE",
        "assoc.",
        "server",
        "objects/s",
        "MB/s",
        "CPU ms/object",
        "p99 ms",
        "memory MB",
        "stored ÷ sent",
        "× Orthanc",
    )
    return table(head, rows)


def find_table(f: Figures) -> str:
    """C-FIND: latency per query."""
    rows = []
    for query, label in QUERIES.items():
        where = {"bench": "find", "query": query}
        for peer in f.peers(**where):
            one = {**where, "peer": peer}
            against = f.ratio("p50_ms", better_is_more=False, **where) if peer == COFFER else ""
            rows.append(
                (
                    label,
                    NAMES.get(peer, peer),
                    figure(f.median("matches", **one)),
                    figure(f.median("p50_ms", **one)),
                    figure(f.median("p99_ms", **one)),
                    figure(f.median("server_cpu_ms", **one)),
                    against,
                )
            )
    return table(("C-FIND", "server", "matches", "p50 ms", "p99 ms", "CPU ms/query", "× Orthanc"), rows)


def move_table(f: Figures) -> str:
    """C-MOVE of one study to a destination that discards it."""
    rows = []
    for corpus, label in CORPORA.items():
        where = {"bench": "move", "corpus": corpus}
        for peer in f.peers(**where):
            one = {**where, "peer": peer}
            against = f.ratio("inst_s", **where) if peer == COFFER else ""
            rows.append(
                (
                    label,
                    NAMES.get(peer, peer),
                    f.spread("inst_s", **one),
                    figure(f.median("mb_s", **one)),
                    figure(f.median("server_cpu_ms", **one)),
                    figure(f.median("rss_peak_mb", **one) or None),
                    against,
                )
            )
    return table(("C-MOVE", "server", "objects/s", "MB/s", "CPU ms/object", "memory MB", "× Orthanc"), rows)


def results_page(f: Figures, around: dict[str, str]) -> str:
    """The whole of RESULTS.md."""
    studies = f.median("studies", bench="find-load", peer=COFFER) or f.median(
        "studies", bench="find-load", peer=ORTHANC
    )
    parts = [
        "# Measured beside its peers",
        "",
        "Written by `make bench`; do not edit. Median of the runs, range in brackets. All servers ran alternately on",
        "one machine with the same client, each on a fresh folder. *× Orthanc* above 1: Coffer is better. Orthanc",
        "syncs every file as Coffer does; `storescp` and `dcmqrscp` write plain files and sync nothing. Rates of a",
        "machine that is shared differ by up to a factor of 2: read CPU per object first.",
        "",
        *(f"- {key}: {value}" for key, value in around.items()),
        "",
        "## C-STORE",
        "",
        store_table(f),
        "",
        f"## C-FIND, study level, {figure(studies)} studies",
        "",
        find_table(f),
        "",
        "## C-MOVE",
        "",
        move_table(f),
        "",
    ]
    if errors := f.errors():
        parts += ["## What went wrong in this run", "", *(f"- {e}" for e in errors), ""]
    return "\n".join(parts)


def readme_section(f: Figures, around: dict[str, str]) -> str:
    """The short table for the README: one line per operation."""

    def line(label: str, key: str, unit: str, dcmtk: str, more: bool, **where: object) -> tuple[str, ...]:
        medians = [f.median(key, peer=peer, **where) for peer in (COFFER, ORTHANC, dcmtk)]
        cells = [f"{figure(m)}{unit}" if m is not None else "–" for m in medians]
        return (label, *cells, f.ratio(key, more, **where))

    store = {"bench": "store", "dcmtk": "storescp-pdu128k+nd"}
    rows = [
        line(f"C-STORE {label}, {assoc} assoc.", "inst_s", "/s", more=True, corpus=corpus, assoc=assoc, **store)
        for corpus, label in CORPORA.items()
        for assoc in (1, 4)
    ]
    rows.append(line("CPU per CT stored", "server_cpu_ms", " ms", more=False, corpus="ct", assoc=1, **store))
    rows += [
        line(f"bytes on disk ÷ sent, {name}", "stored_ratio", "", more=False, corpus=corpus, assoc=1, **store)
        for corpus, name in (("real-ct", "real CT"), ("real-mr", "real MR"))
    ]
    rows += [
        line(f"C-FIND {QUERIES[query]}, p50", "p50_ms", " ms", "dcmqrscp+nd", more=False, bench="find", query=query)
        for query in ("patient_id", "name_infix", "date_range_month")
    ]
    rows.append(line("C-MOVE CT", "inst_s", "/s", "dcmqrscp+nd", more=True, bench="move", corpus="ct"))
    kept = [row for row in rows if any(cell != "–" for cell in row[1:])]
    note = (
        f"{around['Date']}, {around['Machine']}. Orthanc {around['Orthanc']}, {around['DCMTK']}.\n"
        f"Command: {around['Command']}; everything in [bench/RESULTS.md](bench/RESULTS.md). The DCMTK column is\n"
        "`storescp`, for C-MOVE `dcmqrscp`: both write plain files and sync nothing. Coffer and Orthanc sync before\n"
        "they answer, and Coffer compresses, encrypts, chains and indexes as well."
    )
    return table(("", "Coffer", "Orthanc", "DCMTK", "× Orthanc"), kept) + "\n\n" + note
