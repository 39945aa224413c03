"""A real Kubernetes of two nodes on one bare Debian machine, and the images that run on it.

`make cluster-up`, `make cluster-down` and `make images` call it; tests/cluster uses it.
"""
