"""How the pocket models were trained, from nothing, on the CPU: `python -m benchmarks.training llava --out DIR`."""
