"""Other looks of a row, drawn anew for every row of training."""
