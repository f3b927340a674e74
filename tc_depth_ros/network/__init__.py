"""The model, in the order of its forward pass: encoder, coarse depth, attention, decoder."""
