"""A tiny random model of any type, with its processor, on which an adapter is proved without a checkpoint."""
