"""Equal-budget comparison: arms raced under one budget, paired by seed, judged with intervals that hold for few seeds."""
