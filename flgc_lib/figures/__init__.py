"""Every figure and table of the project: `manifest` lists them, `draw` and `tables` make them."""
