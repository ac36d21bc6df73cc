"""Publishing to the Hugging Face Hub: weights, configs, model cards and the COREL data set.

This package states its purpose and holds no code yet; see CHANGELOG.md for what has landed.
"""
