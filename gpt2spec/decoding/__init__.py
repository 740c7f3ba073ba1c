"""From logits to text: filters, sampling, and the loop that extends prompts token by token."""
