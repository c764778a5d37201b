"""What `import folds` offers, and what it does not load."""

from __future__ import annotations

import subprocess
import sys

import pytest

import folds


def test_every_public_name_is_there():
    listed = sorted(name for names in folds._MODULES.values() for name in names)
    assert listed == sorted(folds.__all__)
    for name in folds.__all__:
        assert getattr(folds, name).__name__ == name
    assert set(folds.__all__) <= set(dir(folds))
    with pytest.raises(AttributeError, match="module 'folds' has no attribute 'nothing'"):
        _ = folds.nothing


@pytest.mark.parametrize("module", ["folds", "folds.demo", "submit.__main__"])
def test_what_needs_no_pytorch_does_not_load_it(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0
