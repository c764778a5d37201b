#!/bin/sh
# Builds the ctcdecode decoder and installs it: sh docs/build_ctcdecode.sh [PYTHON], by default .venv/bin/python.
#
# PyPI's ctcdecode cannot be built: its archive lacks headers. ctcdecodeupd is complete and is imported as ctcdecode, but
# its setup.py downloads what the archive already contains, and it requests a C++ standard under which PyTorch's headers
# do not compile; under a newer one its KenLM does not. This script patches all three in the unpacked archive before
# setup.py runs. Needs g++, and torch, setuptools and wheel in that Python; takes about four CPU-minutes.
set -eu

PYTHON=${1:-.venv/bin/python}
VERSION=1.0.8

command -v g++ >/dev/null || { echo "error: no g++: install a C++ compiler (Debian: apt-get install g++)" >&2; exit 2; }
"$PYTHON" -c 'import torch, setuptools' || { echo "error: $PYTHON lacks torch or setuptools: run make install" >&2; exit 2; }

WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT INT TERM

# Python imports sitecustomize before anything else, also in the process that pip starts in the unpacked archive.
cat > "$WORK/sitecustomize.py" <<'PATCH'
import pathlib

setup = pathlib.Path("setup.py")
if setup.is_file() and 'name="ctcdecodeupd"' in setup.read_text():

    def patch(path, old, new):
        text = path.read_text()
        if old in text:
            path.write_text(text.replace(old, new))

    condition = "    if not os.path.isfile(dl_path):"
    patch(setup, condition, '    if os.path.isdir(dl_path[: -len(".tar.gz")]):\n        return  # part of the archive\n' + condition)
    patch(setup, "-std=c++14", "-std=c++17")
    for source in pathlib.Path("third_party/kenlm").rglob("*"):
        if source.suffix in (".hh", ".cc"):
            patch(source, "throw(SpecialWordMissingException)", "noexcept(false)")
PATCH

PYTHONPATH="$WORK" "$PYTHON" -m pip wheel --disable-pip-version-check --no-deps --no-build-isolation \
    --wheel-dir "$WORK/wheel" "ctcdecodeupd==$VERSION"
"$PYTHON" -m pip install --disable-pip-version-check --no-deps --force-reinstall "$WORK"/wheel/*.whl
"$PYTHON" -c 'import ctcdecode; print("ctcdecode is installed:", ctcdecode.__file__)'
