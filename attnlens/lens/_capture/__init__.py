"""What is seen of a pass: attention weights (passes, attention, multihead), hidden states, and what becomes of them."""
