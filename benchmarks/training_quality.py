"""How well variants of a configuration train: each over several seeds, one row a run, one table of mean and spread.

python benchmarks/training_quality.py clip5 clip10 --data demo=data/sample --seeds 0 1 2 3
python benchmarks/training_quality.py clip5 --data bccd=DIR --seeds 10 11 12 --precision bf16-mixed --processes 2
python benchmarks/training_quality.py --table                       # of the rows there are; trains nothing
python benchmarks/training_quality.py --expected configs/demo.yaml  # one line: what a run of that configuration gives

The variants are in training_quality.yaml, the rows (every run that ended, well or not) in training_quality.jsonl. A run
that has a row is not repeated, so that an interrupted study goes on with the same command.
"""

import argparse
import csv
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml

HERE = Path(__file__).resolve().parent
ROWS, VARIANTS = HERE / "training_quality.jsonl", HERE / "training_quality.yaml"
UNSEEN = 10  # seeds from here on are for reports; variants are chosen on those below
CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")  # those that decide how fast, and how, bf16 is computed


class Run(NamedTuple):
    """One training run of the study; what its row is found by."""

    data: str
    variant: str
    precision: str
    seed: int

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Run":
        return cls(*(row[field] for field in cls._fields))


def merged(*settings: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings laid over each other, the later winning key by key; lists are replaced whole."""
    result: dict[str, Any] = {}
    for layer in settings:
        for key, value in layer.items():
            below = result.get(key)
            result[key] = merged(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return result


def settings_of(run: Run, study: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a run, without the places of data and run: what all share, the data's, the variant's (its
    part `everywhere`, then that of the data set)."""
    variant = study["variants"][run.variant]
    own = {"seed_everything": run.seed, "trainer": {"precision": run.precision}}
    return merged(
        study["fixed"], study["data"][run.data], variant.get("everywhere", {}), variant.get(run.data, {}), own
    )


def train(run: Run, study: Mapping[str, Any], data_root: Path, runs: Path) -> dict[str, Any]:
    """Trains as a user would, with one thread, and returns the row. A run that fails gets a row that says how."""
    directory = runs.joinpath(*map(str, run))
    shutil.rmtree(directory, ignore_errors=True)  # what a killed study left
    directory.mkdir(parents=True)
    settings = settings_of(run, study)
    config = directory / "study.yaml"
    config.write_text(yaml.safe_dump(settings))
    command = [sys.executable, "train.py", "--config", str(config), "--data_root", str(data_root)]
    epochs = settings["trainer"]["max_epochs"]
    command += ["--run_dir", str(directory), "--trainer.check_val_every_n_epoch", str(epochs)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent)}
    of_machine, start = machine(), time.time()  # the revision as it begins
    with (directory / "output.txt").open("w") as output:
        process = subprocess.Popen(command, cwd=HERE.parent, env=environment, stdout=output, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    row = {
        **run._asdict(),
        "settings": settings,
        **_measured(directory, process.returncode),
        "processor_minutes": round(_processor_seconds(used) / 60, 2),
        "wall_minutes": round((time.time() - start) / 60, 2),
        **of_machine,
        "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(start)),
    }
    return row


def _measured(directory: Path, status: int) -> dict[str, Any]:
    """The numbers of the one validation, at the end, of the final weights (of their average, where one is kept)."""
    table = directory / "logs/csv/version_0/metrics.csv"
    if status == 0 and table.exists():
        with table.open(newline="") as file:
            last = [row for row in csv.DictReader(file) if row.get("val/mAP")][-1]
        return {"mAP": float(last["val/mAP"]), "mAP_50": float(last["val/mAP_50"])}
    lines = (directory / "output.txt").read_text(errors="replace").strip().splitlines()
    return {"mAP": None, "died": f"status {status}: {lines[-1][-300:] if lines else 'no output'}"}


def _processor_seconds(used: resource.struct_rusage) -> float:
    return used.ru_utime + used.ru_stime


def machine() -> dict[str, Any]:
    """What a row's numbers may depend on beside its settings."""
    return {"cpu": _cpu(), "torch": torch.__version__, "revision": _git("rev-parse", "HEAD")[:12] + _changed()}


def _cpu() -> str:
    """The model's name and those flags that bf16 depends on; elsewhere than on Linux what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    about = dict(line.replace("\t", "").split(": ", 1) for line in lines if ": " in line)
    flags = about.get("flags", "").split()
    return f"{about.get('model name', platform.machine())} ({' '.join(flag for flag in CPU_FLAGS if flag in flags)})"


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=HERE.parent, capture_output=True, text=True).stdout.strip()


def _changed() -> str:
    return "+changes" if _git("status", "--porcelain", "--untracked-files=no", "--", "*.py", "*.yaml") else ""


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def table(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Markdown: a line for each data set, variant, precision and CPU, in the order of their first rows."""
    yield "| data | variant | precision | seeds | mAP mean | sd | min | processor minutes | CPU |"
    yield "|---|---|---|---|---|---|---|---|---|"
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["data"], row["variant"], row["precision"], row["cpu"]), []).append(row)
    for (data, variant, precision, cpu), group in sorted(groups.items(), key=lambda item: item[0][0], reverse=True):
        found = [row["mAP"] for row in group if row["mAP"] is not None]
        died = f" ({len(group) - len(found)} died)" if len(found) < len(group) else ""
        spread = f"{statistics.stdev(found):.3f}" if len(found) > 1 else "-"
        mean, least = (f"{f(found):.3f}" if found else "-" for f in (statistics.mean, min))
        minutes = statistics.mean(row["processor_minutes"] for row in group)
        cells = (data, variant, precision, _seeds(group) + died, mean, spread, least, f"{minutes:.1f}", cpu)
        yield f"| {' | '.join(cells)} |"


def expected(config: str, study: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """What runs of a shipped configuration came to: those of its variant on unseen seeds, in every precision."""
    data, variant = study["configs"][config].split()
    runs = [row for row in rows if (row["data"], row["variant"]) == (data, variant) and row["mAP"] is not None]
    runs = [row for row in runs if row["seed"] >= UNSEEN] or runs
    if not runs:
        return f"{config}: not measured yet"
    found = [row["mAP"] for row in runs]
    precisions = " and ".join(sorted({row["precision"] for row in runs}))
    spread = f"mAP {statistics.mean(found):.3f} on average, {min(found):.3f} to {max(found):.3f}"
    spread = spread if len(found) > 1 else f"mAP {found[0]:.3f} in one run"
    return f"expected of {config} on {data}: {spread} (seeds {_seeds(runs)}, {precisions})"


def _seeds(rows: Sequence[Mapping[str, Any]]) -> str:
    return " ".join(map(str, sorted({row["seed"] for row in rows})))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="*", metavar="VARIANT", help=f"of {VARIANTS.name}")
    parser.add_argument("--data", nargs="+", default=[], metavar="NAME=DIR", help="data sets, and where they are")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--precision", nargs="+", default=["bf16-mixed"], help="bf16-mixed, 32-true")
    parser.add_argument("--processes", type=int, default=1, help="runs side by side, one thread each (default 1)")
    parser.add_argument("--runs", type=Path, default=Path("runs/study"), help="run directories, with checkpoints")
    parser.add_argument("--rows", type=Path, default=ROWS, help=f"by default {ROWS.name} beside this file")
    parser.add_argument("--table", action="store_true", help="print the table of all rows and train nothing")
    parser.add_argument("--expected", metavar="CONFIG", help="say what a shipped configuration gives, by the rows")
    args = parser.parse_args(argv)
    study = yaml.safe_load(VARIANTS.read_text())
    if args.expected:
        if args.expected not in study["configs"]:
            parser.error(f"--expected {args.expected}: expected one of {', '.join(study['configs'])}")
        print(expected(args.expected, study, read_rows(args.rows)))
        return
    if not args.table:
        study_rows(parser, args, study)
    print("\n".join(table(read_rows(args.rows))))


def study_rows(parser: argparse.ArgumentParser, args: argparse.Namespace, study: Mapping[str, Any]) -> None:
    """Trains what has no row yet and adds its rows, one by one, as runs end."""
    roots = dict(name.partition("=")[::2] for name in args.data)
    for given, known, what in ((args.variants, study["variants"], "variant"), (roots, study["data"], "--data")):
        if not given or (unknown := [name for name in given if name not in known]):
            parser.error(f"{what} {' '.join(unknown) if given else 'missing'}: expected some of {', '.join(known)}")
    for name, root in roots.items():
        if not Path(root, "annotations").is_dir():
            parser.error(f"--data {name}={root}: no annotations/ there; the sample: python -m coco.sample data/sample")
    places = {name: Path(root).resolve() for name, root in roots.items()}
    done = {Run.of(row) for row in read_rows(args.rows)}
    wanted = (Run(*it) for it in product(roots, args.variants, args.precision, args.seeds))
    runs = [run for run in wanted if run not in done]
    with ThreadPoolExecutor(args.processes) as pool:
        futures = [pool.submit(train, run, study, places[run.data], args.runs.resolve()) for run in runs]
        for future in as_completed(futures):
            row = future.result()
            with args.rows.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(f"{' '.join(map(str, Run.of(row)))}: {row.get('died') or row['mAP']}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
