"""The network MinkowskiNet, computed by hpal's own sparse convolution or by MinkowskiEngine."""
