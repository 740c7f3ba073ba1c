"""tinygrad's own viewer shows the traces of the tinygrad backend."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tinygrad", exc_type=ImportError)

from gpt2spec.plugins import load_backend


def test_the_viewer_reads_a_trace_that_began_in_the_middle(tmp_path: Path) -> None:
    """Something that was made before is freed in it, as it is between a run's steps."""
    from tinygrad.viz.serve import VizData, get_profile, load_pickle

    backend = load_backend("tinygrad", device="CPU")
    old = [backend.put(np.ones(64, np.float32))]
    double = backend.jit(lambda x: x + x)
    with backend.profile(tmp_path):
        new = backend.to_numpy(double(old[0]))
        old.clear()
    assert (new == 2.0).all()
    layout = get_profile(VizData(), load_pickle(str(tmp_path / "profile.pkl"), default=[]))
    assert b"CPU Memory" in layout
