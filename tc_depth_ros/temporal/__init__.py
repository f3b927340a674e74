"""From one predicted frame to the next: motion, live consistency, confidence."""
