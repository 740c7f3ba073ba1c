"""What a model is asked: each benchmark's files, prompts, decoding and scoring, and the scores published for it."""
