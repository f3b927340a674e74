"""What the camera saw, and what the network eats: one decoder for the node and for training."""
