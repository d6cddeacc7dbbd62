"""What all stores have in common: the attribute at their root, the size of their chunks, and that a store appears under
its name only when it is complete."""
