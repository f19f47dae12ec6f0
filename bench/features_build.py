"""How fast `fraudline features build` is, next to pandas in the same run, and how much memory it takes.

Both read the same two Parquet files of the simulator's payments and labels, on one core, in turn. Ours also checks
every row and writes its output to a file; pandas stops at columns in memory.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.json as pa_json
import pyarrow.parquet as pq

from bench import features_baseline
from consumer.decode import looks_like_card_number
from consumer.simulator import Simulation, simulate
from features.catalog import DEFAULT
from features.event import Label, Payment
from features.history import local
from features.history.fields import Kind, fields_of
from features.history.job import Job

CACHE: Final = Path(__file__).parents[1] / ".cache" / "bench"
SEED: Final = 11
COMPARED: Final = 100_000
SIZES: Final = (500_000, 2_000_000)
MEMORY_MB: Final = 64  # little, so that both sizes are beyond it
ROUNDS: Final = 5
QUICK_COMPARED: Final = 10_000
QUICK_SIZES: Final = (20_000, 50_000)


def files(payments: int) -> tuple[Path, Path]:
    """The simulator's payments and labels as Parquet, made once."""
    folder = CACHE / f"features-{payments}-{SEED}"
    if not (folder / "labels.parquet").exists():
        folder.mkdir(parents=True, exist_ok=True)
        history = simulate(Simulation(payments=payments, seed=SEED))
        _write(folder / "payments.parquet", Payment, history.record_chunks())
        _write(folder / "labels.parquet", Label, history.label_chunks())
    return folder / "payments.parquet", folder / "labels.parquet"


def _write(path: Path, kind: Kind, chunks: Any) -> None:
    schema = pa.schema([(each.name, pa.int64() if each.is_whole else pa.string()) for each in fields_of(kind)])
    with pq.ParquetWriter(path, schema) as writer:
        for _, values, _ in chunks:
            lines = io.BytesIO(b"\n".join(values))
            writer.write_table(pa_json.read_json(lines, parse_options=pa_json.ParseOptions(explicit_schema=schema)))


def build(payments: Path, labels: Path, *, memory_mb: int = 1_024, jobs: int = 1) -> tuple[float, float, int]:
    """Build once: wall seconds, CPU seconds, and the number of payments."""
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        job = Job(
            payments, labels, Path(folder) / "out.parquet", looks_like_card_number, memory_mb=memory_mb, jobs=jobs
        )
        started, cpu_started = time.perf_counter(), time.process_time()
        outcome = local.build(job)
        return time.perf_counter() - started, time.process_time() - cpu_started, outcome.payments


def in_process(payments: int, *, memory_mb: int, jobs: int) -> dict[str, Any]:
    """Build once in a process of its own: payments a second, and the most memory that it had."""
    words = ["--child", str(payments), "--memory-mb", str(memory_mb), "--jobs", str(jobs)]
    files(payments)
    done = subprocess.run(
        [sys.executable, "-m", "bench.features_build", *words], capture_output=True, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _child(payments: int, memory_mb: int, jobs: int) -> dict[str, Any]:
    warm = files(QUICK_COMPARED)
    build(*warm)  # loads the compiled code
    resident = _memory_mb("VmRSS")
    took_s, cpu_s, count = build(*files(payments), memory_mb=memory_mb, jobs=jobs)
    peak = _memory_mb("VmHWM")
    return {
        "payments": count,
        "jobs": jobs,
        "memory_mb": memory_mb,
        "payments_per_s": round(count / took_s),
        "payments_per_cpu_s": round(count / cpu_s),
        "before_mb": resident,
        "peak_mb": peak,
    }


def _memory_mb(name: str) -> int:
    """A line of this process' status: VmRSS is what is resident now, VmHWM the most that ever was."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) >> 10
    raise KeyError(name)


def compare(payments: int, rounds: int) -> dict[str, Any]:
    """Ours and pandas in turn on one core: each round's payments a second, by wall and by CPU, and the medians."""
    paths = files(payments)
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        features_baseline.warm_up(*paths)
        build(*paths)
        runs = []
        for _ in range(rounds):
            ours_s, ours_cpu_s, n = build(*paths)
            cpu_started = time.process_time()
            pandas_s, _ = features_baseline.seconds(*paths)
            pandas_cpu_s = time.process_time() - cpu_started
            runs.append(
                {
                    "ours_per_s": round(n / ours_s),
                    "pandas_per_s": round(n / pandas_s),
                    "ratio": round(pandas_s / ours_s, 1),
                    "ours_per_cpu_s": round(n / ours_cpu_s),
                    "pandas_per_cpu_s": round(n / pandas_cpu_s),
                    "cpu_ratio": round(pandas_cpu_s / ours_cpu_s, 1),
                }
            )
    finally:
        os.sched_setaffinity(0, allowed)
    return {
        "payments": payments,
        "columns": len(DEFAULT.features),
        "left_out_by_pandas": [name for name in DEFAULT.names if name not in features_baseline.covered()],
        "rounds": runs,
        "median": {name: statistics.median(run[name] for run in runs) for name in runs[0]},
    }


def measure(*, rounds: int = ROUNDS, quick: bool = False) -> dict[str, Any]:
    """Everything: the comparison, speed and memory at two sizes, and speed with a second thread."""
    sizes = QUICK_SIZES if quick else SIZES
    return {
        "compared": compare(QUICK_COMPARED if quick else COMPARED, rounds),
        "memory": [in_process(size, memory_mb=MEMORY_MB, jobs=1) for size in sizes],
        "jobs": [in_process(sizes[-1], memory_mb=1_024, jobs=jobs) for jobs in (1, 2)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.features_build", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--quick", action="store_true", help="does it all work?")
    parser.add_argument("--child", type=int, metavar="PAYMENTS", help="one build in this process, as JSON")
    parser.add_argument("--memory-mb", type=int, default=MEMORY_MB)
    parser.add_argument("--jobs", type=int, default=1)
    args = parser.parse_args()
    CACHE.mkdir(parents=True, exist_ok=True)
    if args.child:
        found = _child(args.child, args.memory_mb, args.jobs)
    else:
        found = measure(rounds=args.rounds, quick=args.quick)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
