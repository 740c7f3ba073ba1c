"""The projects that third parties begin with."""

from gpt2spec.scaffold.project import new_backend

__all__ = ["new_backend"]
