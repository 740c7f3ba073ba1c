"""The executable specification of GPT-2."""
