"""This package turns logits into text: filters, sampling, and the loop that extends prompts token by token."""
