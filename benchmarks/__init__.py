"""The figures that memwarden promises, each as a ratio or a distance measured beside a peer in the same run."""
