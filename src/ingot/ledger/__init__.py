"""What a run spends: FLOPs, bytes, seconds, tokens; measured around the whole step and written to ``ledger.jsonl``."""
