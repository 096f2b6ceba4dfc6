"""The network and the decisions it takes."""
