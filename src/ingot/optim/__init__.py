"""Update rules, one per file; each is a torch.optim.Optimizer whose groups follow ``_groups.prepare_groups``."""
