"""What a model is given: prompts of images and text, put together and taken apart, and where their words stand."""
