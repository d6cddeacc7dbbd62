"""Points on a pipe: binary little-endian PLY with a header that says where they come from."""
