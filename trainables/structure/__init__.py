"""Structure: which units and blocks a model has, which are left, and how it is cut down to them."""
