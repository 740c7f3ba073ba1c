"""This package has the formulas of evaluation, on plain numbers and texts, with their standard errors."""
