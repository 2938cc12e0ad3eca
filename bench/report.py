"""Turn the lines of a measurement into markdown tables. Pure: rows in, text out."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from bench.figures import Figures, figure
from bench.kit import COFFER, DCMQRSCP, ORTHANC, STORESCP
from bench.targets import HEAD, Check, checks, key_checks

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
    "all": "every study",
}
KEYS = "## Rotation of keys"
NAMES = {ORTHANC: "Orthanc", STORESCP: "storescp", DCMQRSCP: "dcmqrscp", COFFER: "**Coffer**"}


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a markdown table, its first column aligned left."""
    lines = ["| " + " | ".join(head) + " |", "|---" + "|--:" * (len(head) - 1) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def targets_table(f: Figures) -> str:
    """Return the targets with the measurements, and how many were met."""
    return _judged(list(checks(f)))


def keys_table(f: Figures) -> str:
    """Return the same table for the part `keys`, which runs only when named."""
    return _judged(list(key_checks(f)))


def _judged(found: Sequence[Check]) -> str:
    counted = Counter(check.verdict for check in found)
    verdicts = ", ".join(f"{count} {verdict.strip('*')}" for verdict, count in counted.most_common())
    return table(HEAD, (check.cells() for check in found)) + f"\n\n{len(found)} rows: {verdicts}."


def against_orthanc(f: Figures, key: str, *, more_is_better: bool = True, **where: object) -> str:
    """Return a cell: how many times better Coffer is than Orthanc."""
    value = f.ratio(key, COFFER, ORTHANC, more_is_better=more_is_better, **where)
    return "–" if value is None else f"{figure(value)}×"


def store_table(f: Figures) -> str:
    """Return the C-STORE table: every corpus, number of associations and peer."""
    rows = []
    for corpus, label in CORPORA.items():
        for assoc in (1, 4):
            where: dict[str, Any] = {"bench": "store", "corpus": corpus, "assoc": assoc}
            for peer in f.peers(**where):
                one = {**where, "peer": peer}
                cells = [figure(f.median(key, **one)) for key in ("mb_s", "server_cpu_ms", "p99_ms")]
                cells += [figure(f.highest("rss_peak_mb", **one)), figure(f.median("stored_ratio", **one))]
                against = against_orthanc(f, "inst_s", **where) if peer == COFFER else ""
                rows.append((label, str(assoc), NAMES.get(peer, peer), f.spread("inst_s", **one), *cells, against))
    head = (
        "C-STORE", "assoc.", "server", "objects/s", "MB/s", "CPU ms/object", "p99 ms", "memory MB", "stored ÷ sent",
        "× Orthanc",
    )  # fmt: skip
    return table(head, rows)


def find_table(f: Figures) -> str:
    """Return the C-FIND table: latency per query."""
    rows = []
    keys = ("matches", "first_ms", "p50_ms", "p99_ms", "server_cpu_ms")
    for query, label in QUERIES.items():
        where: dict[str, Any] = {"bench": "find", "query": query}
        for peer in f.peers(**where):
            cells = [figure(f.median(key, peer=peer, **where)) for key in keys]
            against = against_orthanc(f, "p50_ms", more_is_better=False, **where) if peer == COFFER else ""
            rows.append((label, NAMES.get(peer, peer), *cells, against))
    return table(("C-FIND", "server", "matches", "first row ms", "p50 ms", "p99 ms", "CPU ms/query", "× Orthanc"), rows)


def retrieve_table(f: Figures) -> str:
    """Return the table of C-MOVE and C-GET of one study to a receiver that discards it."""
    rows = []
    keys = ("mb_s", "server_cpu_ms", "rss_peak_mb")
    for bench in ("move", "get"):
        for corpus, label in CORPORA.items():
            where: dict[str, Any] = {"bench": bench, "corpus": corpus}
            for peer in f.peers(**where):
                cells = [figure(f.median(key, peer=peer, **where)) for key in keys]
                against = against_orthanc(f, "inst_s", **where) if peer == COFFER else ""
                rate = f.spread("inst_s", peer=peer, **where)
                rows.append((f"C-{bench.upper()} {label}", NAMES.get(peer, peer), rate, *cells, against))
    return table(("Study", "server", "objects/s", "MB/s", "CPU ms/object", "memory MB", "× Orthanc"), rows)


def simulation_table(f: Figures) -> str:
    """Return the table of the index's file alone, as it grows."""
    keys = ("objects", "cpu_us", "wall_us", "file_mb")
    rows = [[figure(r[key]) for key in keys] for r in f.rows if r.get("bench") == "simulate"]
    return table(("objects in the index", "µs CPU per object", "µs wall per object", "file MB"), rows)


def profile_table(f: Figures, before: Sequence[dict[str, Any]]) -> str:
    """Return the table of the steps of a store, now and before; µs per object."""
    old = Figures(before)
    now = [r for r in f.rows if r.get("bench") == "profile"]
    rows = []
    for corpus, step in dict.fromkeys((r["corpus"], r["step"]) for r in [*now, *before]):
        where = {"bench": "profile", "corpus": corpus, "step": step}
        times = (figure(each.median("us", **where)) for each in (old, f))
        rows.append((CORPORA.get(corpus, corpus), step, *times))
    return table(("object", "step", "before, µs", "now, µs"), rows)


def fill_note(f: Figures) -> str:
    """Return whether the large archive was filled in this run."""
    notes = []
    for row in f.rows:
        if row.get("bench") == "fill":
            how = "kept from an earlier run"
            if not row["cached"]:
                how = f"filled now in {figure(row['wall_s'])} s, {figure(row['studies'] / row['wall_s'])} studies/s"
            notes.append(f"{row['studies']:,} studies, {how}")
    return "; ".join(notes)


def keys_section(f: Figures, around: dict[str, str]) -> str:
    """Return the section of RESULTS.md about the rotation of keys, with when and where it was measured."""
    notes = [f"- {key}: {around[key]}" for key in ("Date", "Command", "Machine", "Coffer") if key in around]
    lines = [
        KEYS, "",
        'Written by `make bench BENCHARGS="--only keys --write"`. A server serves an archive with so many study',
        "keys; one association sends 50 objects per second, every tenth of a new study, alone and then beside",
        "`coffer keys rotate` in a process of its own.",
        "", *notes, "", keys_table(f),
    ]  # fmt: skip
    return "\n".join(lines)


def results_page(f: Figures, around: dict[str, str], before: Sequence[dict[str, Any]], kept: Sequence[str]) -> str:
    """Return the whole RESULTS.md; `kept` are the sections at its end from earlier runs."""
    studies = figure(f.median("studies", bench="find-load", peer=COFFER))
    parts = [
        "# Measured beside its peers", "",
        "Written by `make bench`; do not edit, except *By hand* at the end. All servers ran in turn on one machine",
        "with the same client, each C-STORE run on a fresh server and folder. Ratios are the median over the runs,",
        "each compared with the one beside it; above 1 Coffer is better. Orthanc syncs every file as Coffer does;",
        "`storescp` and `dcmqrscp` write plain files and sync nothing. Rates on a shared machine vary by",
        "up to a factor of 2: read CPU per object first.",
        "",
        *(f"- {key}: {value}" for key, value in around.items()), "",
        "## Targets", "", targets_table(f), "",
        "## C-STORE", "", store_table(f), "",
        f"## C-FIND, study level, {studies} studies", "", find_table(f), "",
        "## C-MOVE and C-GET", "", retrieve_table(f), "",
        "## Growth of the index's file alone, simulated", "",
        "Header-only objects, one per study: per object one sealed study, series and instance row of the real lengths",
        "and three UID tokens go to the index's LMDB file, 100 objects in a synced commit, and nothing else.",
        f"The large archive of the growth and start rows: {fill_note(f)}.", "", simulation_table(f), "",
        "## Time spent in each step of a store", "",
        "One process, one object at a time (`bench/store_profile.py`); steps overlap and omit the Python between.",
        "*Before* is commit 2989f02 of 2026-11-23, measured on this machine.", "", profile_table(f, before), "",
    ]  # fmt: skip
    if errors := f.errors():
        parts += ["## Errors of this run", "", *(f"- {e}" for e in errors), ""]
    return "\n".join([*parts, *(f"{section.strip()}\n" for section in kept if section)])


def readme_section(f: Figures, around: dict[str, str]) -> str:
    """Return the short table for the README: one line per operation."""

    def line(label: str, key: str, unit: str, dcmtk: str, *, more: bool, **where: object) -> tuple[str, ...]:
        medians = [f.median(key, peer=peer, **where) for peer in (COFFER, ORTHANC, dcmtk)]
        cells = [f"{figure(m)}{unit}" if m is not None else "–" for m in medians]
        return (label, *cells, against_orthanc(f, key, more_is_better=more, **where))

    store: dict[str, Any] = {"bench": "store", "dcmtk": STORESCP}
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
        line(f"C-FIND {QUERIES[query]}, p50", "p50_ms", " ms", DCMQRSCP, more=False, bench="find", query=query)
        for query in ("patient_id", "name_infix", "date_range_month")
    ]
    rows += [
        line(f"C-{bench.upper()} CT", "inst_s", "/s", DCMQRSCP, more=True, bench=bench, corpus="ct")
        for bench in ("move", "get")
    ]
    kept = [row for row in rows if any(cell != "–" for cell in row[1:])]
    note = (
        f"{around['Date']}, {around['Machine']}. Orthanc {around['Orthanc']}, {around['DCMTK']}.\n"
        f"Command: {around['Command']}; everything in [bench/RESULTS.md](bench/RESULTS.md). The DCMTK column is\n"
        "`storescp`, for C-MOVE and C-GET `dcmqrscp`: both write plain files and sync nothing. Coffer and Orthanc\n"
        "sync before they answer, and Coffer compresses, encrypts, chains and indexes as well."
    )
    return table(("", "Coffer", "Orthanc", "DCMTK", "× Orthanc"), kept) + "\n\n" + note
