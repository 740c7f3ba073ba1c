"""`python -m gpt2spec.lm_eval` is lm-eval's own command line with the model `gpt2spec` registered.

lm-eval does not find models of other packages by itself. Its arguments are those of the command `lm_eval`.
"""

import sys

from gpt2spec.errors import GPT2SpecError


def main() -> int:
    """Run lm-eval on `sys.argv`. Errors that a user can correct are printed in one line, and the exit code is 2."""
    try:
        from lm_eval.__main__ import cli_evaluate

        import gpt2spec.lm_eval.model  # noqa: F401 - registers the model
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "lm_eval":
            raise
        print(f'gpt2spec: error: {error}; pip install "gpt2spec[lm-eval]"', file=sys.stderr)
        return 2
    try:
        cli_evaluate()
    except GPT2SpecError as error:
        print(f"gpt2spec: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
