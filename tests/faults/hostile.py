"""Hostile input by the hundred, made from a seed: each command must be right, or end in one line and exit code 2.

Every command runs in this process through `cli.main`. BAD is an internal error, an exit code that is neither 0 nor 2,
more than one line of error, a message that is endless or holds control characters, a hang, and a file that appears or
changes outside of the output folder and the data home.
"""

from __future__ import annotations

import contextlib
import copy
import gzip
import io
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import yaml

RIGHT, ONE_LINE, BAD = "right", "one line", "BAD"
HANG_SECONDS = 20
RECORDS = "records-of-a-run"
LONGEST_MESSAGE = 3000
SHAPE = (12, 11, 10)

Command = list[str]
Random = np.random.Generator

ODD_TEXTS = ["", " ", ".", "..", "../x", "../../x", "/x", "//", "~nosuch-user/x", "x" * 300, "x/" * 3000, "9" * 400]
ODD_TEXTS += ["a\0b", "a\nb", "a\x1b[2J", "\ud800", "²", "Ü" * 90, "%s%n", "'; --", "$(id)", "\\\\host\\x", "a:b"]
ODD_TEXTS += ["-1", "NaN", "1e999", "None", "*", "[", "{}"]
ODD_VALUES: list[Any] = [None, True, -1, 0, 1.5, 10**12, 10**400, -(10**30), float("nan"), float("inf"), -float("inf")]
ODD_VALUES += ["", "x", "../../x", "/etc/passwd", "~nosuch-user/x", "x" * 5000, "²", "a\0b"]
ODD_VALUES += [[], {}, [[]], [None], {"a": 1}, {"name": None}, ["x"] * 50, [1, "2"]]
ODD_TAGS: list[Any] = [None, "", "x", "9" * 20, [], [1, 2, 3], 0, -1, 2**15, 1e30, "1\\2", "../x"]


@dataclass(frozen=True)
class Verdict:
    kind: str
    command: tuple[str, ...]
    verdict: str
    why: str = ""


class Sandbox:
    """A folder with good input, which every case takes a changed copy of."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.out, self.home, self.given = root / "out", root / "home", root / "in"
        for folder in (self.out, self.home, self.given):
            folder.mkdir(parents=True)
        for name in ("victim.json", "x", "registry.json"):
            (root / name).write_text("{}")
        values = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
        label = np.zeros(SHAPE, np.uint8)
        label[3:7, 3:7, 3:7], label[4:6, 4:6, 4:6] = 1, 2
        affine = np.array([[-0.9, 0, 0, 40], [0, -0.9, 0, 30], [0, 0, 2.5, -100], [0, 0, 0, 1]])
        self.scan = nib.Nifti1Image(values, affine).to_bytes()
        self.label = nib.Nifti1Image(label, affine).to_bytes()

    def folder(self, number: int) -> Path:
        folder = self.given / f"{number:04d}"
        folder.mkdir()
        return folder

    def state(self) -> dict[str, tuple[int, int]]:
        """Every file that no command may touch, by size and time."""
        found = {}
        for folder, names, files in os.walk(self.root):
            if Path(folder) == self.root:
                names[:] = [name for name in names if name not in ("out", "home")]
            for name in files:
                status = os.lstat(os.path.join(folder, name))
                found[os.path.join(folder, name)] = (status.st_size, status.st_mtime_ns)
        return found


def sweep(root: Path, count: int, seed: int = 0) -> list[Verdict]:
    """`count` hostile inputs, the kinds in turn. The caller sets the data home to `root/home`."""
    box = Sandbox(root)
    verdicts = []
    kinds = list(KINDS.items())
    with _a_finished_run():
        for number in range(count):
            kind, make = kinds[number % len(kinds)]
            random = np.random.default_rng([seed, number])
            command = make(box, box.folder(number), random)
            before = box.state()
            verdict, why = _judge(command)
            changed = {path for path, state in box.state().items() if before.get(path) != state}
            changed |= before.keys() - box.state().keys()
            if changed:
                verdict, why = BAD, f"touched {sorted(changed)[:3]}"
            verdicts.append(Verdict(kind, tuple(command), verdict, why))
    return verdicts


def table(verdicts: list[Verdict]) -> str:
    """Counts by kind."""
    lines = [f"{'kind':<16}{'inputs':>8}{RIGHT:>8}{ONE_LINE:>10}{BAD:>6}"]
    for kind in [*KINDS, "all"]:
        mine = [one.verdict for one in verdicts if kind in (one.kind, "all")]
        lines.append(f"{kind:<16}{len(mine):>8}{mine.count(RIGHT):>8}{mine.count(ONE_LINE):>10}{mine.count(BAD):>6}")
    return "\n".join(lines)


class Hang(BaseException):
    """Not an Exception: nothing on the way may take it for an error of its own."""


def _judge(command: Command) -> tuple[str, str]:
    import cli

    def stop(number: int, frame: object) -> None:
        raise Hang

    out, err = io.StringIO(), io.StringIO()
    before = sys.argv, signal.signal(signal.SIGALRM, stop)
    sys.argv = ["tags-bench", *command]
    signal.alarm(HANG_SECONDS)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1 if end.code else 0
    except Hang:
        return BAD, f"no end within {HANG_SECONDS} s"
    except BaseException as error:
        return BAD, f"raised {type(error).__name__}: {str(error)[:200]}"
    finally:
        signal.alarm(0)
        sys.argv = before[0]
        signal.signal(signal.SIGALRM, before[1])
    text = err.getvalue()
    if code == 0:
        return (BAD, "a traceback") if "Traceback" in text else (RIGHT, "")
    if code != 2:
        return BAD, f"exit code {code}: {text[-300:]}"
    if "Usage:" in text:  # the parser's own words about an option
        return ONE_LINE, ""
    errors = [line for line in text.splitlines() if line.startswith("error: ")]
    last = text.rstrip("\n").splitlines()[-1] if text.strip() else ""
    if len(errors) != 1 or last != errors[0]:
        return BAD, f"no single line of error: {text[-300:]!r}"
    if len(last) > LONGEST_MESSAGE or "\x1b" in last:
        return BAD, f"a message of {len(last)} characters: {last[:100]!r}"
    return ONE_LINE, ""


@contextlib.contextmanager
def _a_finished_run() -> Iterator[None]:
    """A suite in which region growing was run, so that `predict` gets as far as scan and prompts."""
    from dataclasses import asdict

    from benchmarks.contestants import Target, method
    from benchmarks.results.records import RecordStore

    target = Target("liver-tumor", "liver", "tumor", labels=(2,), window=(-100.0, 200.0))
    unit = {
        "method": "region-growing",
        "method_name": "region-growing",
        "dataset": "d",
        "checkpoint": "",
        "synthetic": True,
        "config": method("region-growing").configured(),
        "target": json.loads(json.dumps(asdict(target))),
    }
    whole = RecordStore.read_suite

    def read(store: RecordStore, suite: str) -> Any:
        return (None, [unit]) if sys.argv[1] == "predict" else whole(store, suite)

    RecordStore.read_suite = read  # type: ignore[method-assign]
    try:
        yield
    finally:
        RecordStore.read_suite = whole  # type: ignore[method-assign]


def _pick(random: Random, values: list[Any]) -> Any:
    return values[int(random.integers(len(values)))]


def _changed(content: Any, random: Random) -> Any:
    """A copy with one to three values, anywhere within, replaced, removed, or moved to another key."""
    content = copy.deepcopy(content)
    for _ in range(int(random.integers(1, 4))):
        place = content
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = _pick(random, keys)
            if isinstance(place[key], dict | list) and random.random() < 0.6:
                place = place[key]
                continue
            if random.random() < 0.15:
                del place[key]
            elif isinstance(place, dict) and random.random() < 0.15:
                place[_pick(random, ODD_TEXTS)] = place.pop(key)
            else:
                place[key] = copy.deepcopy(_pick(random, ODD_VALUES))
            break
    return content


def _broken(text: bytes, random: Random) -> bytes:
    """The bytes cut off, in another encoding, or with some of them flipped; mostly as they are."""
    way = random.random()
    if way < 0.1:
        return text[: int(random.integers(len(text)))]
    if way < 0.15:
        return text.decode("latin-1").encode("utf-16", "surrogatepass")
    if way < 0.25:
        flipped = bytearray(text)
        for place in random.integers(len(text), size=3):
            flipped[place] = int(random.integers(256))
        return bytes(flipped)
    return b"[" * 100_000 if way < 0.28 else text


SUITE = {
    "name": "mine",
    "seed": 7,
    "datasets": [{"name": "lits17", "source": "phantom", "cases": 3, "fold": 0}],
    "methods": ["ball", {"name": "region-growing", "label": "grown", "config": {}}],
    "protocols": [
        "centre-click",
        {"kind": "iterative", "rounds": 3, "noise": {"displacement_mm": [0, 2], "wrong_sign": 0.1}},
    ],
    "tolerances_mm": [1, 2],
    "empty_policy": "worst-value/1",
    "budget": {"steps": 1, "cpus": 1},
}


def _good_suite(folder: Path) -> str:
    (folder / "suite.yaml").write_text(yaml.safe_dump(SUITE), encoding="utf-8")
    return str(folder / "suite.yaml")


def suites(box: Sandbox, folder: Path, random: Random) -> Command:
    text = yaml.safe_dump(_changed(SUITE, random), allow_unicode=True).encode("utf-8", "surrogatepass")
    (folder / "suite.yaml").write_bytes(_broken(text, random))
    return ["prompts", "show", "--suite", str(folder / "suite.yaml"), "--out", str(box.out)]


def tables(box: Sandbox, folder: Path, random: Random) -> Command:
    for name, content in (("scan.nii", box.scan), ("label.nii", box.label)):
        (folder / name).write_bytes(content)
    rows = [["image", "label", "case", "patient"]] + [["scan.nii", "label.nii", f"c{i}", f"p{i}"] for i in range(3)]
    for _ in range(int(random.integers(1, 3))):
        row = rows[int(random.integers(len(rows)))]
        row[int(random.integers(len(row)))] = _pick(random, [*ODD_TEXTS, '"', "a,b", str(box.root / "victim.json")])
    text = "\n".join(",".join(row) for row in rows).encode("utf-8", "surrogatepass")
    (folder / "table.csv").write_bytes(_broken(text, random))
    return [
        "data",
        "add",
        "mine",
        "--from",
        str(folder / "table.csv"),
        "--target",
        _pick(random, ["2", "1", *ODD_TEXTS]),
    ]


def _odd_nifti(content: bytes, random: Random) -> bytes:
    """A NIfTI file with a header that lies, with voxels that lack, or as a bomb of gzip."""
    header = bytearray(content[:352])
    fields = {
        "dim": (40, "<8h"),
        "type": (70, "<h"),
        "bits": (72, "<h"),
        "pixdim": (76, "<8f"),
        "offset": (108, "<f"),
        "slope": (112, "<2f"),
        "codes": (252, "<2h"),
        "qform": (256, "<6f"),
        "sform": (280, "<12f"),
        "magic": (344, "<4B"),
    }
    for _ in range(int(random.integers(1, 4))):
        start, form = _pick(random, list(fields.values()))
        dtype = np.dtype({"h": "<i2", "f": "<f4", "B": "u1"}[form[-1]])
        index = int(random.integers(int(form[1:-1] or 1)))
        odd = [0, 1, -1, 2, 255, 512, 30000] if dtype.kind in "iu" else [0, -1, np.nan, np.inf, 1e30, 1e-30, 1.5]
        value = np.array(_pick(random, odd)).astype(np.int64 if dtype.kind in "iu" else dtype).astype(dtype)
        header[start + index * dtype.itemsize : start + (index + 1) * dtype.itemsize] = value.tobytes()
    changed = bytes(header) + content[352:]
    way = random.random()
    if way < 0.2:
        return gzip.compress(changed)[: int(random.integers(20, 400))]
    if way < 0.3:
        return gzip.compress(bytes(header) + bytes(30 << 20), 1)
    if way < 0.4:
        return changed[: int(random.integers(len(changed)))]
    return gzip.compress(changed) if way < 0.7 else changed


def headers(box: Sandbox, folder: Path, random: Random) -> Command:
    suffix = _pick(random, [".nii.gz", ".nii.gz", ".nii", ".nii", ".NII.GZ", ".mha", ".nrrd"])
    case = int(random.integers(3))
    for part, content in (("imagesTr", box.scan), ("labelsTr", box.label)):
        (folder / part).mkdir()
        odd = _odd_nifti(content, random) if case in (2, part == "labelsTr") else content
        packed = odd if odd is not content or suffix == ".nii" else gzip.compress(content)
        (folder / part / f"a{suffix}").write_bytes(packed)
    if random.random() < 0.5:
        return ["score", str(folder / "imagesTr"), str(folder / "labelsTr"), "--json"]
    scan, mask = folder / "imagesTr" / f"a{suffix}", box.out / "mask.nii.gz"
    prompts = folder / "p.json"
    prompts.write_text('{"version": 1, "clicks": [{"mm": [36, 26, -88]}]}')
    return [
        "predict",
        str(scan),
        str(mask),
        "--method",
        "region-growing",
        "--prompts",
        str(prompts),
        "--out",
        str(box.out),
    ]


PROMPTS = {
    "version": 1,
    "space": "RAS",
    "clicks": [{"mm": [36.4, 26.4, -90.0], "positive": True}, {"mm": [35.5, 25.5, -87.5], "positive": False}],
    "box": {"from_mm": [33.0, 23.0, -92.0], "to_mm": [37.0, 27.0, -85.0]},
    "text": "liver tumor",
}
MARKUPS = {
    "@schema": "https://example.org/markups-schema-v1.0.3.json#",
    "markups": [
        {"type": "Fiducial", "coordinateSystem": "LPS", "controlPoints": [{"position": [-36.4, -26.4, -90.0]}]}
    ],
}


def prompts(box: Sandbox, folder: Path, random: Random) -> Command:
    (folder / "scan.nii").write_bytes(box.scan)
    content: dict[str, Any] = copy.deepcopy(_pick(random, [PROMPTS, MARKUPS]))
    for key in ("text", "box", "clicks"):
        if random.random() < (0.2 if key == "clicks" else 0.9):  # region growing takes clicks only
            content.pop(key, None)
    if random.random() < 0.9:
        content = _changed(content, random)
    text = json.dumps(content).encode("utf-8", "surrogatepass")
    name = _pick(random, ["p.json", "p.mrk.json", "p.txt"])
    (folder / name).write_bytes(_broken(text, random))
    good = str(box.out / "m.nii.gz")
    mask = _pick(random, [*[good] * 8, str(box.out / "m.png"), str(folder / "scan.nii"), str(box.out), ""])
    words = ["--method", "region-growing", "--prompts", str(folder / name), "--out", str(box.out)]
    return ["predict", str(folder / "scan.nii"), mask, *words]


def dicom(box: Sandbox, folder: Path, random: Random) -> Command:
    from tests.data.test_dicom import STRAIGHT, box_contours, box_mask, scan, write_rtstruct, write_seg, write_series

    case = folder / "dicom" / "a"
    write_series(case, scan()[:, :, :6])
    contours = [one for one in box_contours() if one[0, 2] < 6]
    if random.random() < 0.5:
        write_rtstruct(case / "rs.dcm", {"GTV": contours}, STRAIGHT)
    else:
        write_seg(case / "rs.dcm", {"GTV": box_mask()[:, :, :6]}, STRAIGHT)
    for path in sorted({_pick(random, sorted(case.iterdir())), case / "rs.dcm"}):
        if random.random() < 0.3:
            path.write_bytes(_broken(path.read_bytes().ljust(4), random) if random.random() < 0.5 else b"\x08\0\x05\0")
        else:
            _change_tags(path, random)
    label = _pick(random, ["GTV=1", "gtv=2", "GTV=1", "=1", "GTV=²", "GTV=" + "9" * 400, "\x1b=1"])
    return ["data", "import-dicom", str(folder / "dicom"), "--out", str(box.out / f"{folder.name}"), "--label", label]


def _change_tags(path: Path, random: Random) -> None:
    import pydicom

    content = pydicom.dcmread(path)
    for _ in range(int(random.integers(1, 4))):
        tag = _pick(random, [element.tag for element in content])
        if random.random() < 0.4:
            del content[tag]
            continue
        with contextlib.suppress(Exception):  # what pydicom does not let anybody write is no file
            before = copy.deepcopy(content[tag])
            content[tag].value = _pick(
                random, [None, "", "x", "9" * 20, [], [1, 2, 3], 0, -1, 2**15, 1e30, "1\\2", "../x"]
            )
            content.save_as(path)
            continue
        content[tag] = before
    with contextlib.suppress(Exception):
        content.save_as(path)


def records(box: Sandbox, folder: Path, random: Random) -> Command:
    """Records of which one file is broken, changed or doubled; what is damaged is named, and the rest is shown."""
    from benchmarks.results.records import SCHEMA_VERSION, RecordStore
    from tests.results.boards import by_hand

    store = RecordStore(folder / RECORDS)
    rows, units = by_hand({"ball": [1.0, 1.0, None], "tags-tiny": [1.0, None, 1.0]})
    rows = rows.assign(schema_version=SCHEMA_VERSION, fold=0)
    for unit in units:
        place = store.unit_folder("mine", unit["dataset"], unit["method"], unit["unit"])
        store.begin_unit(place, unit)
        for case, found in rows[rows["unit"] == unit["unit"]].groupby("case"):
            store.write_case(place, str(case), found.to_dict("records"))
        if random.random() < 0.5:
            store.complete_unit(place)
    files = sorted(path for path in store.root.rglob("*") if path.is_file())
    victim = files[int(random.integers(len(files)))]
    content = victim.read_bytes()
    if victim.suffix == ".json" and random.random() < 0.6:
        content = json.dumps(_changed(json.loads(content), random), default=str).encode("utf-8", "surrogatepass")
    victim.write_bytes(_broken(content, random))
    if random.random() < 0.2:
        (victim.parent / f"copy-{victim.name}").write_bytes(content)
    how = _pick(random, [[], ["--json"], ["--details"], ["--markdown"], ["--table", _pick(random, ODD_TEXTS)]])
    metric = ["--metric", _pick(random, ODD_TEXTS)] if random.random() < 0.1 else []
    return ["leaderboard", "--records", str(store.root), "--suite", "mine", *how, *metric]


def names(box: Sandbox, folder: Path, random: Random) -> Command:
    odd, out = _pick(random, ODD_TEXTS), str(box.out)
    scan, mask = folder / "scan.nii", str(box.out / "m.nii")
    scan.write_bytes(box.scan)
    predict = ["predict", str(scan), mask, "--method", "region-growing", "--out", out]
    return list(
        _pick(
            random,
            [
                ["data", "remove", odd],
                ["data", "verify", odd],
                ["data", "stats", odd],
                ["data", "splits", odd],
                ["data", "add", odd, "--from", str(folder)],
                ["data", "add", "mine", "--from", odd],
                ["data", "add", "lits17", "--from", str(folder), "--splits", odd],
                ["data", "import-dicom", odd, "--out", str(box.out / "new"), "--label", "a=1"],
                ["data", "import-dicom", str(folder), "--out", str(box.out / "new"), "--label", odd],
                ["data", "synth", "--dataset", odd, "--out", out],
                ["data", "fetch", odd],
                ["score", odd, str(folder)],
                ["score", str(folder), str(folder), "--label", odd],
                ["score", str(folder), str(folder), "--tolerance", odd],
                ["prompts", "show", "--suite", odd, "--out", out],
                ["prompts", "show", "--dataset", odd, "--out", out],
                ["prompts", "show", "--protocol", odd, "--dataset", "lits17", "--out", out],
                ["prompts", "import", odd, "--dataset", "lits17", "--out", out],
                ["predict", odd, mask, "--method", "region-growing", "--out", out],
                ["predict", str(scan), odd, "--method", "region-growing", "--out", out],
                [*predict, "--prompts", odd],
                [*predict, "--text", odd],
                [*predict, "--dataset", odd],
                ["predict", str(scan), mask, "--method", odd, "--out", out],
                ["run", "--dataset", odd, "--out", out],
                ["run", "--methods", odd, "--out", out] if odd.strip() else ["run", "--suite", "nosuch", "--out", out],
                ["run", "--data", odd, "--out", out] if odd else ["data", "list"],
                ["run", "--checkpoint", odd, "--out", out],
                ["train", "--methods", odd, "--out", out]
                if odd.strip()
                else ["train", "--suite", "nosuch", "--out", out],
                ["train", "--dataset", odd, "--out", out],
                ["train", "--methods", "ball", "--steps", odd, "--out", out],
                ["tune", "--methods", odd, "--out", out]
                if odd.strip()
                else ["tune", "--suite", "nosuch", "--out", out],
                ["tune", "--methods", "ball", "--trials", odd, "--out", out],
                ["ablate", "--methods", odd, "--out", out] if odd.strip() else ["ablate", "--suite", "x", "--out", out],
                ["leaderboard", "--suite", odd, "--out", out],
                ["leaderboard", "--records", odd],
                ["leaderboard", "--tracking-uri", odd],
                [
                    "prompts",
                    "export",
                    str(box.out / "exported" / odd.replace("..", "").lstrip("/")),
                    "--suite",
                    _good_suite(folder),
                    "--out",
                    out,
                ],
                ["sync", "--out", odd] if not odd.strip().startswith("-") else ["sync", "--out", out],
                ["doctor", "--address", odd],
                ["weights", "verify", odd],
                ["weights", "fetch", odd],
            ],
        )
    )


KINDS: dict[str, Callable[[Sandbox, Path, Random], Command]] = {
    "suites": suites,
    "tables": tables,
    "headers": headers,
    "prompts": prompts,
    "DICOM tags": dicom,
    "records": records,
    "names": names,
}
