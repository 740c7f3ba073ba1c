"""This package writes the projects that authors of backends begin with."""

from gpt2spec.scaffold.project import new_backend

__all__ = ["new_backend"]
