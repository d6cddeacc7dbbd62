"""The point stream that commands write to a pipe: binary little-endian PLY with a header that names its source."""
