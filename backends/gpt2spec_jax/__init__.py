"""GPT-2 on JAX: `ops` maps the operations to jax.numpy and scans over stacked layers, `head` is the chunked loss."""
