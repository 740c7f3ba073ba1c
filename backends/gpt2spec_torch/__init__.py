"""GPT-2 on PyTorch: `ops` maps the operations to PyTorch's kernels, `head` is the chunked head and loss."""
