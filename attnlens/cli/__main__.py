"""`python -m attnlens.cli`."""

from attnlens.cli import app

app()
