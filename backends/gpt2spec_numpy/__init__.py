"""GPT-2 on NumPy: `ops` is the reference, `fast_ops` has fused kernels, `tape` differentiates both."""
