"""One allocation a file: a function `priority` that says how a layer's states compete with those of other layers."""
