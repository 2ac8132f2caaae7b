"""Training, its learning rate search and comparison of backbones."""
