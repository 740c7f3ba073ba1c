"""What a score is: the formulas of evaluation, on plain numbers and texts, with their standard errors."""
