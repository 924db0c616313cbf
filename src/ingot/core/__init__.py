"""Parts, recipes, quantities, errors, progress and the seams. Imports no torch."""
