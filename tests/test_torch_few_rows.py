"""Weights laid out for decoding on PyTorch, and the kernel compiled for one row."""

import logging
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", exc_type=ImportError)

from gpt2spec_torch import row_kernel as module  # noqa: E402
from gpt2spec_torch.backend import create  # noqa: E402
from gpt2spec_torch.few_rows import FewRowsWeight  # noqa: E402
from gpt2spec_torch.row_kernel import row_kernel  # noqa: E402

from gpt2spec.config import GPT2Config  # noqa: E402
from gpt2spec.parameters import initial_parameters  # noqa: E402

EXACT = {torch.float32: 1e-5, torch.bfloat16: 0.02}
CONFIG = GPT2Config(n_layer=2, n_head=2, n_embd=16, n_ctx=32, vocab_size=61)


@pytest.fixture(scope="module")
def generator():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("dtype", EXACT)
@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("shape", [(1, 1, 48), (5, 1, 48), (1, 48), (3, 48), (2, 9, 48)], ids=str)
def test_products_are_those_of_the_tensor(generator, dtype, compiled: bool, shape: tuple[int, ...]) -> None:
    weight = torch.randn(48, 70, generator=generator).to(dtype)
    bias = torch.randn(70, generator=generator).to(dtype)
    x = torch.randn(shape, generator=generator).to(dtype)
    laid_out = FewRowsWeight(weight, row_kernel(dtype, dtype) if compiled else None, int8=False)
    for b in (bias, None):
        expected = x.double() @ weight.double() + (0.0 if b is None else b.double())
        found = laid_out.product(x, b)
        assert found.shape == (*shape[:-1], 70)
        torch.testing.assert_close(found.double(), expected, rtol=EXACT[dtype], atol=8 * EXACT[dtype])


@pytest.mark.parametrize("rows", [1, 4, 90])
def test_int8_weights_have_a_scale_for_every_output(generator, rows: int) -> None:
    """Outputs of very different size keep the same relative error: half a step of 127."""
    weight = torch.randn(64, 32, generator=generator) * torch.logspace(-3, 3, 32)
    x = torch.randn(rows, 64, generator=generator)
    laid_out = FewRowsWeight(weight, row_kernel(torch.float32, torch.int8), int8=True)
    expected = x @ weight
    error = (laid_out.product(x[:, None] if rows < 90 else x[None], None).reshape(rows, 32) - expected).abs()
    assert 1e-4 < (error / weight.abs().amax(0)).max() < 64**0.5 * 4 / 254 + 0.1


def test_an_output_that_is_all_zero_stays_so() -> None:
    weight = torch.zeros(8, 4)
    weight[:, 1] = 1.0
    found = FewRowsWeight(weight, None, int8=True).product(torch.ones(1, 2, 8), None)
    torch.testing.assert_close(found[0, 0], torch.tensor([0.0, 8.0, 0.0, 0.0]))


def test_a_kernel_is_compiled_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """Compiled for nobody: from then on it comes from the folder, also in another process."""
    made = []

    def compile(path: Path, *dtypes) -> None:
        made.append(path)
        path.write_bytes(b"not a program")

    monkeypatch.setattr(module, "_folder", lambda: tmp_path)
    monkeypatch.setattr(module, "_compile", compile)
    monkeypatch.setattr(module, "_load", lambda path: path.read_bytes())
    row_kernel.cache_clear()
    try:
        assert row_kernel(torch.float32, torch.float32) == b"not a program"
        row_kernel.cache_clear()
        assert row_kernel(torch.float32, torch.float32) == b"not a program"
        assert [path.name for path in made] == ["row-float32-float32.pt2"]
    finally:
        row_kernel.cache_clear()


def test_without_a_compiler_decoding_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    def compile(*args) -> None:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(module, "_folder", lambda: tmp_path)
    monkeypatch.setattr(module, "_compile", compile)
    row_kernel.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            assert row_kernel(torch.float32, torch.float32) is None
        assert "without a compiled kernel: no compiler" in caplog.text
    finally:
        row_kernel.cache_clear()


def test_a_damaged_program_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_folder", lambda: tmp_path)
    monkeypatch.setattr(module, "_compile", lambda path, *dtypes: path.write_bytes(b"fresh"))
    real = module._load

    def load(path: Path):
        return "kernel" if path.read_bytes() == b"fresh" else real(path)

    (tmp_path / "row-float32-float32.pt2").write_bytes(b"damaged")
    monkeypatch.setattr(module, "_load", load)
    row_kernel.cache_clear()
    try:
        assert row_kernel(torch.float32, torch.float32) == "kernel"
    finally:
        row_kernel.cache_clear()


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, True), ({"dtype": "bfloat16"}, True), ({"int8": True}, True), ({"dtype": "float64"}, False)],
    ids=str,
)
def test_the_large_weights_are_laid_out_and_no_others(options, expected: bool) -> None:
    backend = create(device="cpu", **options)
    params = backend.decoding_params(backend.load_params(initial_parameters(CONFIG)))
    assert isinstance(params["wte"]["weight"], FewRowsWeight) == expected
    for block in params["blocks"]:
        assert isinstance(block["mlp"]["c_fc"]["weight"], FewRowsWeight) == expected
        assert isinstance(block["ln_1"]["weight"], torch.Tensor)
    assert isinstance(params["wpe"]["weight"], torch.Tensor)
