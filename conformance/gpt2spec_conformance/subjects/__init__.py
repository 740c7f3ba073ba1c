"""Adapters that make other people's GPT-2 a subject. Each module imports its framework, and this one imports none."""
