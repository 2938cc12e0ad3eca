"""The speed targets of the archive, and whether one measurement met each of them. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from bench.figures import Figures, figure
from bench.kit import COFFER, DCMQRSCP, ORTHANC, STORESCP

AIM, MET, MISSED, UNKNOWN = "met, aim too", "met", "**missed**", "not measured"


@dataclass(frozen=True, slots=True)
class Check:
    """One target. `least` and `aim` are in `unit`; None: there is no such bound. `detail` is further information."""

    work: str
    unit: str
    value: float | None
    least: float | None
    aim: float | None
    lower_is_better: bool = False
    detail: str = ""

    def _reaches(self, bound: float) -> bool:
        assert self.value is not None
        return self.value <= bound if self.lower_is_better else self.value >= bound

    @property
    def verdict(self) -> str:
        """Whether the value reaches the bounds; a target with only an aim is judged by the aim."""
        if self.value is None:
            return UNKNOWN
        if self.least is not None and not self._reaches(self.least):
            return MISSED
        if self.aim is None:
            return MET
        if self._reaches(self.aim):
            return AIM
        return MET if self.least is not None else "aim missed"

    def cells(self) -> tuple[str, ...]:
        """Return the row of the table."""
        sign = "≤" if self.lower_is_better else "≥"
        bounds = [f"{sign} {figure(bound)}" if bound is not None else "" for bound in (self.least, self.aim)]
        return (self.work, self.unit, *bounds, figure(self.value), self.verdict, self.detail)


HEAD: Final = ("Work", "unit", "at least", "aim", "measured", "verdict", "server, details")


def checks(f: Figures) -> Iterator[Check]:
    """Yield every check, in the order of the targets."""
    yield from _store(f)
    yield from _find(f)
    yield from _retrieve(f)
    yield from _codec(f)
    yield from _growth(f)
    yield from _verify(f)


def _cost(f: Figures, **where: object) -> str:
    """Format the rate, CPU and memory of Coffer, and the rates of the peers."""
    ours = {**where, "peer": COFFER}
    parts = [
        f"{figure(f.median('inst_s', **ours))} objects/s",
        f"{figure(f.median('server_cpu_ms', **ours))} ms CPU each",
        f"peak {figure(f.highest('rss_peak_mb', **ours))} MB",
    ]
    for name, peer in (("Orthanc", ORTHANC), ("storescp", STORESCP), ("dcmqrscp", DCMQRSCP)):
        rate = f.median("inst_s", **{**where, "peer": peer})
        if rate is not None:
            parts.append(f"{name} {figure(rate)}/s, {figure(f.median('server_cpu_ms', **{**where, 'peer': peer}))} ms")
    return "; ".join(parts)


def _store(f: Figures) -> Iterator[Check]:
    for work, corpus, assoc, orthanc, storescp in (
        ("C-STORE CT 525 KB, 1 association", "ct", 1, 3.0, 0.6),
        ("C-STORE CT 525 KB, 4 associations", "ct", 4, 1.6, None),
        ("C-STORE 8 KB, 1 association", "tiny", 1, 2.0, None),
        ("C-STORE 8 KB, 4 associations", "tiny", 4, 2.0, None),
        ("C-STORE 67 MB multi-frame", "mf", 1, 2.0, None),
    ):
        where: dict[str, Any] = {"bench": "store", "corpus": corpus, "assoc": assoc}
        yield Check(
            work, "× Orthanc", f.ratio("inst_s", COFFER, ORTHANC, **where), orthanc, None, detail=_cost(f, **where)
        )
        yield Check(work, "× storescp", f.ratio("inst_s", COFFER, STORESCP, **where), storescp, 1.0)
        if (corpus, assoc) == ("ct", 4):
            cpu = f.median("server_cpu_ms", peer=COFFER, **where)
            yield Check(work, "ms CPU each", cpu, 2.5, None, lower_is_better=True)
    # Bound: four of the largest pieces in memory (64 MiB each, `limits.memory_object_bytes`) beyond what CT needs.
    peaks = [f.highest("rss_peak_mb", bench="store", peer=COFFER, corpus=corpus, assoc=1) for corpus in ("mf", "ct")]
    extra = peaks[0] - peaks[1] if peaks[0] is not None and peaks[1] is not None else None
    yield Check("C-STORE 67 MB multi-frame", "MB above CT's peak", extra, 268, 134, lower_is_better=True)


def _find(f: Figures) -> Iterator[Check]:
    studies = figure(f.median("studies", bench="find-load", peer=COFFER))
    for query, label in (("patient_id", "Patient ID"), ("accession", "Accession Number"), ("study_uid", "Study UID")):
        where: dict[str, Any] = {"bench": "find", "query": query}
        yield Check(
            f"C-FIND one exact {label}, {studies} studies", "ms p50", f.median("p50_ms", peer=COFFER, **where), 2, 1,
            lower_is_better=True, detail=_others(f, "p50_ms", " ms", **where),
        )  # fmt: skip
    for query, label in (
        ("name_prefix", "`SMI*`"), ("name_infix", "`*MIT*`"), ("date_range_month", "date range"),
        ("modality", "ModalitiesInStudy"),
    ):  # fmt: skip
        where = {"bench": "find", "query": query}
        matches = figure(f.median("matches", peer=COFFER, **where))
        yield Check(
            f"C-FIND {label}, {studies} studies", "ms to the first row", f.median("first_ms", peer=COFFER, **where),
            10, 5, lower_is_better=True, detail=f"{matches} matches; " + _others(f, "first_ms", " ms", **where),
        )  # fmt: skip
    where = {"bench": "find", "query": "all"}
    matches = figure(f.median("matches", peer=COFFER, **where))
    yield Check(
        "C-FIND many rows", "rows/s", f.median("rows_s", peer=COFFER, **where), 8000, 15000,
        detail=f"{matches} matches; " + _others(f, "rows_s", "/s", **where),
    )  # fmt: skip


def _others(f: Figures, key: str, unit: str, **where: object) -> str:
    cpu = f"{figure(f.median('server_cpu_ms', peer=COFFER, **where))} ms CPU"
    theirs = f.median(key, peer=ORTHANC, **where)
    return cpu if theirs is None else f"{cpu}; Orthanc {figure(theirs)}{unit}"


def _retrieve(f: Figures) -> Iterator[Check]:
    for bench, label in (("move", "C-MOVE"), ("get", "C-GET")):
        where: dict[str, Any] = {"bench": bench, "corpus": "ct"}
        ratios = [f.ratio("inst_s", COFFER, peer, **where) for peer in (ORTHANC, DCMQRSCP)]
        yield Check(f"{label} of a CT study", "× Orthanc", ratios[0], 1.0, None, detail=_cost(f, **where))
        yield Check(f"{label} of a CT study", "× dcmqrscp", ratios[1], None, 1.0)


def _codec(f: Figures) -> Iterator[Check]:
    for series, least, aim in (("CT", 0.26, 0.212), ("MR", 0.16, 0.129)):
        where: dict[str, Any] = {"bench": "codec", "series": series}
        whole = f.median("stored_ratio", bench="store", peer=COFFER, corpus=f"real-{series.lower()}", assoc=1)
        yield Check(
            f"stored size, real {series} series", "of the bytes received", f.median("stored_share", **where), least,
            aim, lower_is_better=True, detail=f"the log; with keys and index on disk {figure(whole)}",
        )  # fmt: skip
    for series in ("CT", "MR"):
        where = {"bench": "codec", "series": series}
        for key, label, least, aim in (("in_mb_s", "in", 350, 500), ("out_mb_s", "out", 600, 1000)):
            yield Check(f"codec, one core, {series} series, {label}", "MB/s", f.median(key, **where), least, aim)


def _growth(f: Figures) -> Iterator[Check]:
    sizes = sorted({int(v) for v in f.values("studies", bench="growth")})
    value, work, detail = None, "growth: CPU per object", ""
    small_cpu = None
    if len(sizes) == 2:
        costs = [f.median("cpu_ms", bench="growth", studies=each) for each in sizes]
        small_cpu, large_cpu = costs
        if small_cpu and large_cpu:
            value = 100 * (large_cpu / small_cpu - 1)
        waits = [figure(f.median("p50_ms", bench="growth", studies=each)) for each in sizes]
        work = f"growth: CPU per object, {sizes[0]:,} to {sizes[1]:,} studies"
        detail = f"{figure(costs[0])} to {figure(costs[1])} ms; wait p50 {waits[0]} to {waits[1]} ms"
    yield Check(work, "%", value, 10, 2, lower_is_better=True, detail=detail)
    yield _simulated(f, small_cpu)
    studies = figure(f.median("studies", bench="start"))
    for key, label, least, aim in (("store_s", "C-STORE", 10, 2), ("find_s", "C-FIND", 30, 10)):
        memory = figure(f.median("memory_mb", bench="start"))
        yield Check(
            f"server start at {studies} studies, to the first {label}", "s", f.median(key, bench="start"), least, aim,
            lower_is_better=True, detail=f"{memory} MB then",
        )  # fmt: skip


def _simulated(f: Figures, cpu_ms: float | None) -> Check:
    """Check what the index's file alone adds from 1,000 objects to the last stop, as a share of an object's cost."""
    stops = sorted({int(v) for v in f.values("objects", bench="simulate")})
    value, detail, work = None, "", "growth by simulation: the index's file"
    if stops and cpu_ms:
        costs = [f.median("cpu_us", bench="simulate", objects=each) or 0.0 for each in stops]
        value = 100 * (costs[-1] - costs[0]) / (1000 * cpu_ms)
        work = f"growth by simulation to {stops[-1]:,} studies: the index's file"
        detail = " to ".join(figure(each) for each in (costs[0], costs[-1])) + " µs CPU per object, B-trees alone"
    return Check(work, "% of an object", value, 10, 2, lower_is_better=True, detail=detail)


def _verify(f: Figures) -> Iterator[Check]:
    where: dict[str, Any] = {"bench": "verify", "level": "headers"}
    for bodies in ("64 bytes", "100 KB"):
        rate = f.median("records_s", bodies=bodies, **where)
        yield Check(f"coffer verify, headers, bodies of {bodies}", "records/s, one core", rate, 300_000, None)
    rate = f.median("gb_s", bench="verify", level="bodies", bodies="100 KB")
    yield Check("coffer verify, bodies", "GB/s, one core", rate, 1.0, None)
    yield Check(
        "coffer verify, decrypt, CT images", "MB/s, one core", f.median("mb_s", bench="verify", level="decrypt"), 300,
        None,
    )  # fmt: skip


def key_checks(f: Figures) -> Iterator[Check]:
    """Yield the checks of the part `keys`, which runs only when named: the rotation of the keys of many studies."""
    studies = f.highest("studies", bench="keys")
    where: dict[str, Any] = {"bench": "keys", "studies": studies}
    of = f"rotation of {figure(studies)} study keys"
    rate = f.median("per_second", **where)
    yield Check(
        of, "s", f.highest("seconds", **where), 60, None, lower_is_better=True,
        detail=f"{figure(rate)} keys/s, during C-STOREs",
    )  # fmt: skip
    yield Check(
        of, "epochs made by the provider", f.highest("made", **where), 1, None, lower_is_better=True,
        detail=f"and {figure(f.highest('opened', **where))} opened, however many the keys",
    )  # fmt: skip
    yield Check(
        of, "MB of its own", f.highest("own_peak_mb", **where), 100, None, lower_is_better=True,
        detail=f"{figure(f.highest('rss_peak_mb', **where))} MB with the mapped pages of the keyring",
    )  # fmt: skip
    p50, longest = (
        [figure(f.highest(f"{when}_{key}_ms", **where)) for when in ("alone", "beside")] for key in ("p50", "max")
    )
    yield Check(
        "C-STORE beside the rotation, 8 KB, 50 per second", "ms p99", f.highest("beside_p99_ms", **where), 100, None,
        lower_is_better=True,
        detail=f"alone {figure(f.highest('alone_p99_ms', **where))}; p50 {p50[0]} alone, {p50[1]} beside; longest "
        f"{longest[0]} and {longest[1]}",
    )  # fmt: skip
