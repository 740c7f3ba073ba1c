"""This package has the benchmarks: their files, prompts, decoding and scoring, and the scores published for GPT-2."""
