"""GPT-2 on NumPy: `ops` is the reference, `fast` the same with fused kernels, `tape` its gradients."""
