"""GPT-2 on PyTorch: `ops` maps the operations to PyTorch's kernels, `head` is the chunked head and loss.

`decoding` keeps up with memory in decoding, `parallel` trains in several processes, and `layouts` lets both bring
operations for the weights that they lay out.
"""
