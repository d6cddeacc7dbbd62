"""The network: MinkowskiNet on hpal's own sparse convolution."""
