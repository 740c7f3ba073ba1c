"""Weights laid out for decoding on PyTorch, and the kernel compiled for one row."""

import logging
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", exc_type=ImportError)

from gpt2spec_torch.create import create  # noqa: E402
from gpt2spec_torch.decoding import ahead_of_time as module  # noqa: E402
from gpt2spec_torch.decoding.few_rows import FewRowsTable, FewRowsWeight, in_large_pages  # noqa: E402
from gpt2spec_torch.decoding.row_kernel import row_kernel  # noqa: E402

from gpt2spec.config import GPT2Config  # noqa: E402
from gpt2spec.errors import BackendError  # noqa: E402
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


SHAPES = {"one row": (1, 1), "a few rows": (4, 1), "many positions": (1, 64)}
"""[B, T] of which 64 products are made of."""


def int8_weight(generator) -> Any:
    """A weight [64, 32] with outputs of very different sizes; no value is within a fiftieth of a step of a tie."""
    weight = torch.randn(64, 32, generator=generator, dtype=torch.float64) * torch.logspace(-3, 3, 32)
    step = weight.abs().amax(0) / 127
    near = ((weight / step) % 1 - 0.5).abs() < 0.02
    return torch.where(near, weight + 0.05 * step, weight).float()


def products(laid_out: FewRowsWeight, x: Any, shape: tuple[int, int], bias: Any) -> Any:
    """The products of the rows of x, [B, T] at a time."""
    pieces = x.reshape(-1, *shape, x.shape[-1])
    return torch.cat([laid_out.product(piece, bias).reshape(-1, laid_out.shape[1]) for piece in pieces])


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("compiled", [True, False])
def test_int8_weights_are_whole_steps_a_127th_of_the_largest_of_their_output(generator, compiled: bool, shape) -> None:
    """Products with the identity show the weights that are used: n steps of each, n from -127 to 127, the nearest."""
    weight = int8_weight(generator)
    laid_out = FewRowsWeight(weight, row_kernel(torch.float32, torch.int8) if compiled else None, int8=True)
    step = weight.double().abs().amax(0) / 127
    found = products(laid_out, torch.eye(64), shape, None).double() / step
    torch.testing.assert_close(found, (weight / step).round(), rtol=1e-6, atol=0)
    assert found.abs().amax() == pytest.approx(127, rel=1e-6)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("dtype", EXACT)
def test_int8_products_have_a_bias_and_rounding_of_activations_only(generator, dtype, shape) -> None:
    """Apart from the weights, one row and many positions are as exact as the dtype, and a few rows as bfloat16."""
    weight = int8_weight(generator).to(dtype)
    scale = weight.double().abs().amax(0)
    bias = (scale * torch.randn(32, generator=generator)).to(dtype)
    x = torch.randn(64, 64, generator=generator).to(dtype)
    laid_out = FewRowsWeight(weight, row_kernel(dtype, torch.int8), int8=True)
    used = products(laid_out, torch.eye(64).to(dtype), (1, 64), None).double()
    error = (products(laid_out, x, shape, bias).double() - (x.double() @ used + bias.double())) / scale
    assert error.abs().max() < (0.1 if shape == (4, 1) else 1e-4)


@pytest.mark.parametrize("width", [1, 8, 24, 33, 40])
def test_int8_rows_of_any_width_are_multiplied(generator, width: int) -> None:
    """PyTorch's kernel for a few rows crashes, or reads what is not there, at widths that are no multiple of 16."""
    weight = torch.randn(width, 70, generator=generator)
    laid_out = FewRowsWeight(weight, None, int8=True)
    x = torch.randn(24, 1, width, generator=generator)
    used = laid_out.product(torch.eye(width)[None], None)[0]
    torch.testing.assert_close(laid_out.product(x, None), x @ used)


def few_rows_backend(dtype: str = "float32") -> Any:
    return create(device="cpu", dtype=dtype, compile=False)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("start", [[0], [6], [9, 9, 9], [0, 9, 4]], ids=str)
def test_a_query_of_each_row_sees_what_was_read_of_its_own(generator, dtype: str, start: list[int]) -> None:
    """Rows are at equal or at different positions, and later slots of the cache may hold anything."""
    ops, at = few_rows_backend(dtype).ops, torch.tensor(start, dtype=torch.int32)
    q, k, v = (
        torch.randn(len(start), 2, n, 8, generator=generator).to(ops.astype(at, dtype).dtype) for n in (1, 10, 10)
    )
    found = ops.causal_attention(q, k, v, start=at)
    assert found.dtype == q.dtype
    for row, last in enumerate(start):
        one = [x[row : row + 1, :, : last + 1].double() for x in (q, k, v)]
        expected = torch.softmax(one[0] @ one[1].mT / 8**0.5, -1) @ one[2]
        torch.testing.assert_close(
            found[row : row + 1].double(), expected, rtol=0, atol=1e-5 if dtype == "float32" else 0.02
        )


@pytest.mark.parametrize("start", [[3], [5, 5], [0, 7]], ids=str)
@pytest.mark.parametrize("in_place", [True, False])
def test_new_keys_go_to_each_rows_own_slots(generator, start: list[int], in_place: bool) -> None:
    ops = few_rows_backend().ops
    ops.in_place = in_place
    cache, new = (torch.randn(len(start), 2, n, 4, generator=generator) for n in (9, 2))
    expected = cache.clone()
    for row, first in enumerate(start):
        expected[row, :, first : first + 2] = new[row]
    before = cache.clone()
    found = ops.cache_write(cache, new, torch.tensor(start, dtype=torch.int32))
    assert torch.equal(found, expected)
    assert torch.equal(cache, expected if in_place else before)


def test_what_an_embedding_is_read_from_is_not_rounded(generator) -> None:
    table = torch.randn(9, 4, generator=generator)
    backend = create(device="cpu", int8=True, compile=False)
    laid_out = FewRowsTable(table, None, int8=True)
    assert torch.equal(backend.ops.take(laid_out, torch.tensor([[3, 0]]), 0), table[[3, 0]][None])


def test_int8_that_could_not_be_had_is_refused() -> None:
    """Where weights stay tensors, nothing would be rounded, without any sign of it."""
    for options in ({"dtype": "float64"}, {"compile": "step"}):
        with pytest.raises(BackendError, match="option 'int8' of backend 'torch' is for CPUs"):
            create(device="cpu", int8=True, **options)


def test_an_output_that_is_all_zero_stays_so() -> None:
    weight = torch.zeros(8, 4)
    weight[:, 1] = 1.0
    found = FewRowsWeight(weight, None, int8=True).product(torch.ones(1, 2, 8), None)
    torch.testing.assert_close(found[0, 0], torch.tensor([0.0, 8.0, 0.0, 0.0]))


def recipe() -> Any:
    """A recipe for a program, which nobody compiles here."""
    raise AssertionError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of programs, for a process that has not loaded any."""
    monkeypatch.setattr(module, "_folder", lambda: tmp_path)
    monkeypatch.setattr(module, "_programs", {})
    return tmp_path


def test_a_program_is_compiled_once_and_kept(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """After it is compiled, it is loaded from the folder, also in another process."""
    made = []

    def compile(path: Path, recipe) -> None:
        made.append(path.name)
        path.write_bytes(b"not a program")

    monkeypatch.setattr(module, "_compile", compile)
    monkeypatch.setattr(module, "_load", lambda path: path.read_bytes())
    for name in ("one", "one", "another"):
        assert module.program(name, recipe) == b"not a program"
    assert capsys.readouterr().err.count("compiling") == 2
    monkeypatch.setattr(module, "_programs", {})
    assert module.program("one", recipe) == b"not a program"
    assert made == ["one.pt2", "another.pt2"]


def test_a_program_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "row.pt2"

    def interrupted(program, package_path: str) -> None:
        Path(package_path).write_bytes(b"half")
        raise KeyboardInterrupt

    def complete(program, package_path: str) -> str:
        assert not path.exists()
        Path(package_path).write_bytes(b"whole")
        return package_path

    def recipe() -> Any:
        return torch.nn.Identity(), (torch.zeros(2),), (None,)

    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", interrupted)
    with pytest.raises(KeyboardInterrupt):
        module._compile(path, recipe)
    assert list(path.parent.iterdir()) == []
    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", complete)
    module._compile(path, recipe)
    assert {found.name: found.read_bytes() for found in path.parent.iterdir()} == {"row.pt2": b"whole"}


def test_programs_of_another_pytorch_or_processor_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    folders = {module._folder()}
    with monkeypatch.context() as patch:
        patch.setattr(torch, "__version__", "9.9")
        folders.add(module._folder())
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", lambda self: "flags : another")
        folders.add(module._folder())
    assert len(folders) == (3 if Path("/proc/cpuinfo").exists() else 2)
    assert module._folder() in folders


def test_without_a_compiler_decoding_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    def compile(*args) -> None:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(module, "_compile", compile)
    with caplog.at_level(logging.WARNING):
        assert row_kernel(torch.float32, torch.float32) is None
    assert "without a compiled program: no compiler" in caplog.text


def test_a_damaged_program_is_made_anew(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_compile", lambda path, recipe: path.write_bytes(b"fresh"))
    real = module._load

    def load(path: Path):
        return "program" if path.read_bytes() == b"fresh" else real(path)

    (folder / "one.pt2").write_bytes(b"damaged")
    monkeypatch.setattr(module, "_load", load)
    assert module.program("one", recipe) == "program"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8], ids=str)
@pytest.mark.parametrize("shape", [(3,), (17, 5), (2, 0)], ids=str)
def test_a_copy_in_large_pages_is_aligned_and_the_same(generator, dtype, shape: tuple[int, ...]) -> None:
    x = torch.randint(-9, 9, shape, generator=generator).to(dtype)
    copy = in_large_pages(x)
    assert torch.equal(copy, x) and copy.dtype == dtype and copy.shape == shape
    assert copy.numel() == 0 or (copy.data_ptr() % 64 == 0 and copy.data_ptr() != x.data_ptr())


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
