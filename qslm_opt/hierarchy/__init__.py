"""The tree of a model: network, blocks, modules, tensors."""
