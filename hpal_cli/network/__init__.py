"""The network: MinkowskiNet, on hpal's own sparse convolution or on MinkowskiEngine's."""
