"""How the pocket models were trained, from nothing, on the CPU: `python -m attnlens.pocket.train llava --out DIR`."""
