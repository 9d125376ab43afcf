"""Hostile and damaged input: nothing but an AttnLensError or a right result, in bounded time and memory."""
