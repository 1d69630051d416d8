"""Drawing for the notebooks: style, simplex, grid, maps of attention, trees."""
