"""`python -m gpt2spec.lm_eval` evaluates models with EleutherAI's lm-eval, which has thousands of tasks."""
