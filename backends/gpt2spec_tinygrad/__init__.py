"""GPT-2 on tinygrad: `ops` maps the operations, `program` captures whole steps, `clang` finds the CPU's compiler."""
