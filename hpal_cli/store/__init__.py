"""What all stores have in common: one attribute at the root, writing that is complete or not visible at all, a single
writer, and the same size of chunks."""
