"""A loaded model as it is: where its parts are (structure), how it reads and generates on a KV cache, one at a time."""
