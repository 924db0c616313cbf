"""Pages from run folders: one self-contained HTML file per run, without any network access."""
