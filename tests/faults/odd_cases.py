"""The tables of odd but possible uses: lists, options given twice, surroundings, spreadsheets' files, moved runs."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from faults.cases import ACCEPTED, BASE, EITHER, REFUSED, Case, specials
from faults.file_cases import READ_DATA, RUN, SUBMIT
from faults.stage import TRAIN
from faults.surroundings import SURROUNDINGS

# What a user may write where one or several folds, models, loggers or members are expected.
LISTS = {
    "folds.train": {
        "--fold": ("0,0", "1,0", ",0", "0,,1", "0,", ",", "²", "１", "all,0", "ALL", "0 , 1", "0-1", "0;1", "00", "+0"),
        "--model": ("lstm_small,lstm_small", "lstm_small,", ",lstm_small", "lstm_small,,gru_small", "LSTM_small"),
        "--log": ("none,none", ",", "none,tensorboard", "tensorboard,tensorboard", "tensorboard,"),
        "--name": ("a/b", "..", "a b", "ü", "x" * 250, "a\tb", ".hidden", "a@1", "a,b", "-", "fold0", "a\\b"),
        "--device": ("cpu:0", "cpu:1", "CPU", "cuda", "cuda:", "cpu,cpu", "mps", "0"),
    },
    "ensemble.blend": {
        "--members": ("lstm_small,lstm_small", "lstm_small,", ",", "[a", "*,*", "**", "lstm_small lstm_small"),
        "--method": ("single,mbr", "MBR", "", "mbr,", "best best", "single\n"),
        "--max-params": ("２０M", "1_000", "1e3", "20 M", "20m", "-1", "+5", "1,000,000", "0", "∞"),
        "--runs": ("runs,runs", "runs ", "./runs", "runs/../runs", "s3:/runs", "file:///nowhere", "http://", "s3://"),
    },
    "ensemble.decode": {
        "--lm": ("train,train", "TRAIN", "none,train", "lm.arpa,lm.arpa", "/dev/stdin", "lm.arpa.gz"),
        "--decoder": ("greedy,beam", "GREEDY", "greedy "),
    },
    "ensemble.transcribe": {"--format": ("text,json", "TEXT"), "--submission": ("/dev/stdin", "submission.csv,")},
    "folds.launch": {
        "--models": ("lstm_small,lstm_small", "lstm_small,", ",", "lstm*", "lstm_small lstm_small"),
        "--folds": ("0,1", "２", "1.0", "two"),
        "--on": ("local,slurm", "LOCAL", "kubernetes"),
    },
    "submit.__main__": {
        "--competition": ("a/b", "A B", "x,y", "https://www.kaggle.com/competitions/", "ü", "..", "hw3p2\n"),
        "--message": ("", "x" * 100_000, "\u202e", "\x1b[31m", "a\nb", "=1+1"),
    },
}  # fmt: skip

# The file of a submission or its sample as spreadsheets, editors and hands write it.
TABLES: dict[str, bytes] = {
    "BOM": b"\xef\xbb\xbf" + b"index,label\n0,a\n1,b\n2,c\n",
    "UTF-16": "index,label\n0,a\n1,b\n2,c\n".encode("utf-16"), "CRLF": b"index,label\r\n0,a\r\n1,b\r\n2,c\r\n",
    "CR": b"index,label\r0,a\r1,b\r2,c\r", "quotes": b'"index","label"\n"0","a"\n"1","b"\n"2","c"\n',
    "open quote": b'index,label\n0,"a\n1,b\n2,c\n', "duplicate": b"index,label\n0,a\n0,b\n1,c\n",
    "no header": b"0,a\n1,b\n2,c\n", "header only": b"index,label\n", "header twice": b"index,label\nindex,label\n0,a",
    "three columns": b"index,label,more\n0,a,x\n1,b,x\n2,c,x\n", "one column": b"index\n0\n1\n2\n",
    "semicolons": b"index;label\n0;a\n1;b\n2;c\n", "tabs": b"index\tlabel\n0\ta\n1\tb\n2\tc\n",
    "empty lines": b"index,label\n\n0,a\n\n1,b\n\n2,c\n\n", "blanks": b"index , label\n 0 , a\n 1 , b\n 2 , c\n",
    "other order": b"index,label\n2,c\n0,a\n1,b\n", "missing row": b"index,label\n0,a\n2,c\n",
    "surplus row": b"index,label\n0,a\n1,b\n2,c\n3,d\n", "NUL": b"index,label\n0,a\x00\n1,b\n2,c\n",
    "header twice the same": b"index,index\n0,a\n1,b\n2,c\n", "empty header": b",\n0,a\n1,b\n2,c\n",
    "Arabic digits": "index,label\n٠,a\n١,b\n٢,c\n".encode(), "floats": b"index,label\n0.0,a\n1.0,b\n2.0,c\n",
    "empty labels": b"index,label\n0,\n1,\n2,\n", "NaN": b"index,label\n0,NaN\n1,nan\n2,None\n",
    "formula": b"index,label\n0,=1+1\n1,@SUM(A1)\n2,-c\n", "no newline at the end": b"index,label\n0,a\n1,b\n2,c",
    "a long label": b"index,label\n0," + b"a" * 2_000_000 + b"\n1,b\n2,c\n", "comment": b"# by hand\nindex,label\n0,a",
}  # fmt: skip
READ_TABLES = [
    ("submission.csv", "submit.__main__", SUBMIT),
    ("submission.csv", "ensemble.report", ["--data", "data"]),
    ("data/test-clean/random_submission.csv", "ensemble.decode", READ_DATA),
]


def list_cases() -> Iterator[Case]:
    """Lists, and values in other scripts, cases or with blanks; options given twice, with `=`, and without a value."""
    for module, options in LISTS.items():
        for option, values in options.items():
            base = BASE[module]
            for value in values:
                yield Case("lists", f"{option} {value[:30]!r}", module, [*base, option, value], specials)
            first = values[0]
            for name, more in {"=": [f"{option}="], "twice": [option, first, option, first], "bare": [option]}.items():
                yield Case("lists", f"{option} {name}", module, [*base, *more], specials)


def surroundings_cases(modules: list[str]) -> Iterator[Case]:
    """Every command in every surroundings."""
    for name, module in itertools.product(SURROUNDINGS, modules):
        yield Case("surroundings", name, module, BASE.get(module, []), surroundings=name)


def table_cases() -> Iterator[Case]:
    """Submissions and sample files as other programs write them."""
    for (file, module, arguments), (name, content) in itertools.product(READ_TABLES, TABLES.items()):

        def prepare(folder: Path, file: str = file, content: bytes = content) -> None:
            (folder / file).write_bytes(content)

        yield Case("tables", f"{file}, {name}", module, arguments, prepare)


def _moved(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "runs/lstm_small").rename(folder / "runs" / name) and None


def _linked(folder: Path) -> None:
    (folder / RUN).rename(folder / "elsewhere")
    (folder / RUN).symlink_to(folder / "elsewhere")


def _linked_store(folder: Path) -> None:
    (folder / "runs").rename(folder / "elsewhere")
    (folder / "runs").symlink_to("elsewhere")


def _hard_links(folder: Path) -> None:
    for path in (folder / RUN).glob("*.safetensors"):
        os.link(path, folder / path.name)


def _doubled(folder: Path) -> None:
    (folder / "runs/again").symlink_to("lstm_small")


def _inside_itself(folder: Path) -> None:
    (folder / "runs/inner").symlink_to(folder / "runs")


def _deep(folder: Path) -> None:
    (folder / "runs" / Path(*["d"] * 60)).mkdir(parents=True)


def _strangers(folder: Path) -> None:
    for name in ("notes.txt", ".DS_Store", "lstm_small/notes", "lstm_small/fold0/Thumbs.db", "lstm_small/fold9"):
        (folder / "runs" / name).write_bytes(b"x")


def _sparse(name: str) -> Callable[[Path], None]:
    """A file of 64 GB of zeros, which takes no space on the disk."""
    return lambda folder: os.truncate(folder / RUN / name, 1 << 36)


STORES: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    **{f"named {name!r}": (_moved(name), EITHER) for name in ("a b", "ü", "a,b", "[x]", "*", "x" * 200, "a\nb")},
    "linked run": (_linked, ACCEPTED), "linked store": (_linked_store, ACCEPTED), "hard links": (_hard_links, ACCEPTED),
    "doubled by a link": (_doubled, EITHER), "inside itself": (_inside_itself, EITHER), "deep": (_deep, ACCEPTED),
    "strangers": (_strangers, EITHER),
    **{f"sparse {name}": (_sparse(name), REFUSED) for name in ("config.json", "dev.safetensors")},
}  # fmt: skip


def store_cases() -> Iterator[Case]:
    """Runs that were moved, linked, copied by other programs, or stand beside what is no run."""
    commands = [("ensemble.decode", READ_DATA), ("ensemble.blend", BASE["ensemble.blend"])]
    commands.append(("folds.train", ["--data", "data", *TRAIN, "--fold", "0", "--resume"]))
    for (module, arguments), (name, (prepare, allowed)) in itertools.product(commands, STORES.items()):
        yield Case("stores", name, module, arguments, prepare, allowed=EITHER if module == "folds.train" else allowed)
