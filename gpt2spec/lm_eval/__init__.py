"""gpt2spec's models in EleutherAI's lm-eval, which has thousands of tasks: `python -m gpt2spec.lm_eval`."""
