"""What people hand over: folders, fine-tunes and objects in memory, looked at before a model is made of them."""
