"""The Dual Attention Network as pure functions, and the modules that own its parameters."""
