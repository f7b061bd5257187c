"""What may start now, so that a batch of tasks stays inside its memory."""
