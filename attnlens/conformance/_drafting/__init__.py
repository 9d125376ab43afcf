"""From a model alone to its adapter: what can be read off (paths), and which grid fits (grids)."""
