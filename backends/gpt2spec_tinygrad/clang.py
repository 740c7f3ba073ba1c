"""A C compiler for tinygrad's CPU device, which calls the program named by the variable CC, or `clang`.

The PyPI package `ziglang` contains clang as a subcommand (`zig clang`), but CC names a program and takes no
arguments: so a script of one line, kept in the user's cache folder, stands between them.
"""

import importlib.util
import os
import shlex
import shutil
import sys
import tempfile
from pathlib import Path

import platformdirs
from tinygrad.helpers import getenv

from gpt2spec.errors import BackendError


def provide() -> None:
    """Point CC at a compiler, unless there is one already."""
    if os.environ.get("CC") or shutil.which("clang"):
        return
    spec = importlib.util.find_spec("ziglang")
    if spec is None or spec.origin is None:
        raise BackendError(
            "tinygrad compiles for the CPU by calling clang, which is not here: pip install 'gpt2spec[tinygrad]' "
            "(which brings the package ziglang), or install clang, or name it in the variable CC"
        )
    os.environ["CC"] = str(_script(Path(spec.origin).parent))
    getenv.cache_clear()  # type: ignore[attr-defined]  # tinygrad may have asked before


def _script(ziglang: Path) -> Path:
    """The script that calls `zig clang`, written once for each place where zig is."""
    folder = Path(platformdirs.user_cache_dir("gpt2spec"))
    if sys.platform == "win32":
        name, text = "clang.bat", f'@"{ziglang / "zig.exe"}" clang %*\r\n'
    else:
        name, text = "clang", f'#!/bin/sh\nexec {shlex.quote(str(ziglang / "zig"))} clang "$@"\n'
    script = folder / name
    if script.is_file() and script.read_text() == text:
        return script
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=folder, delete=False, newline="") as file:
        file.write(text)
    Path(file.name).chmod(0o755)
    Path(file.name).replace(script)  # at once: another process may be about to call it
    return script
