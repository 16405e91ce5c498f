"""Every figure and table of the project: `manifest` lists them, `draw` makes them."""
