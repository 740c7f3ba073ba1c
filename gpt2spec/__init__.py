"""The executable specification of GPT-2.

The names below are the public interface for everyday use. Each is imported when it is first used, so that
`import gpt2spec` loads neither NumPy nor a framework.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpt2spec.api import GenerateOptions, Generator, generate, logits, loss_and_gradients, stream
    from gpt2spec.checkpoints.opening import load_checkpoint
    from gpt2spec.config import GPT2Config, preset
    from gpt2spec.errors import GPT2SpecError
    from gpt2spec.parameters import initial_parameters
    from gpt2spec.plugins import load_backend

    __version__: str

__all__ = [
    "GPT2Config",
    "GPT2SpecError",
    "GenerateOptions",
    "Generator",
    "__version__",
    "generate",
    "initial_parameters",
    "load_backend",
    "load_checkpoint",
    "logits",
    "loss_and_gradients",
    "preset",
    "stream",
]

_HOMES = {
    "GPT2Config": "gpt2spec.config",
    "GPT2SpecError": "gpt2spec.errors",
    "GenerateOptions": "gpt2spec.api",
    "Generator": "gpt2spec.api",
    "generate": "gpt2spec.api",
    "initial_parameters": "gpt2spec.parameters",
    "load_backend": "gpt2spec.plugins",
    "load_checkpoint": "gpt2spec.checkpoints.opening",
    "logits": "gpt2spec.api",
    "loss_and_gradients": "gpt2spec.api",
    "preset": "gpt2spec.config",
    "stream": "gpt2spec.api",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module (PEP 562); later uses find it here."""
    if name == "__version__":
        value = importlib.import_module("importlib.metadata").version("gpt2spec")
    elif name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module 'gpt2spec' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """All public names, including those not imported yet."""
    return sorted({*globals(), *__all__})
